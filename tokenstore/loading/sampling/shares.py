"""Shares of an epoch's positions as integers: exact for epochs of up to 2**62 positions."""

from __future__ import annotations

from fractions import Fraction
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["SHARE_BITS", "portion", "shares_of_rest"]

SHARE_BITS: Final = 62
"""The number of bits of a share: shares are in units of 2**-62."""


def shares_of_rest(weights: list[Fraction]) -> npt.NDArray[np.uint64]:
    """Return each weight but the last, (sources - 1,), as a share of the sum of itself and all later ones.

    subtle: where the weights are the numbers of rows, and an epoch has as many positions as there are rows,
    rounded shares and rounded portions give exact counts: the error is below 2**62 * 2**-63 before the second
    rounding.
    """
    rest = sum(weights)
    shares = np.empty(len(weights) - 1, np.uint64)
    for number, weight in enumerate(weights[:-1]):
        shares[number] = round(weight / rest * (1 << SHARE_BITS))
        rest -= weight
    return shares


def portion(positions: int, share: int) -> int:
    """Return how many positions a share of them is, rounded."""
    return (positions * share + (1 << (SHARE_BITS - 1))) >> SHARE_BITS
