"""Codes of large codebooks as digits: each digit is coded as if it were of a codebook of its own (M23).

A tree over 2^18 codes would have more weights than a store has codes. Three digits of 64 have few, and digits
of an implicit codebook are channels, which predict each other.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenstore.codecs.context.tree import MAX_CODEBOOK_SIZE

__all__ = ["digits_of", "has_digits", "join_digits", "sound_digits", "split_digits"]

Codes = npt.NDArray[Any]

_BASE = 64
"""The base of all digits but the last."""


def has_digits(size: int) -> bool:
    """Return whether a model codes the digits of codes of a codebook of `size`, and not the codes."""
    return size > MAX_CODEBOOK_SIZE


def digits_of(size: int) -> tuple[int, ...]:
    """Return the numbers of values of the digits of codes below `size`, the fastest varying first."""
    digits = []
    while size > _BASE:
        digits.append(_BASE)
        size = -(-size // _BASE)
    return (*digits, size)


def split_digits(codes: Codes, digits: tuple[int, ...]) -> npt.NDArray[np.int32]:
    """Return the digits (n, p * L) of codes (n, L), digit by digit."""
    rest = codes.astype(np.int64)
    out = np.empty((len(codes), len(digits), codes.shape[1]), np.int32)
    for place, values in enumerate(digits[:-1]):
        out[:, place] = rest % values
        rest //= values
    out[:, -1] = rest
    return out.reshape(len(codes), len(digits) * codes.shape[1])


def join_digits(planes: Codes, digits: tuple[int, ...], size: int, out: Codes) -> int:
    """Write the codes (n, L) of digits (n, p * L) into `out`; return the first sample of one not below size.

    Returns -1 where all are below. The codes of such a sample are 0.
    """
    parts = planes.reshape(len(planes), len(digits), -1)
    codes = parts[:, -1].astype(np.int64)
    for place in reversed(range(len(digits) - 1)):
        codes *= digits[place]
        codes += parts[:, place]
    beyond = codes >= size
    codes[beyond] = 0
    out[:] = codes
    return int(beyond.any(axis=1).argmax()) if beyond.any() else -1


def sound_digits(digits: tuple[int, ...], size: int) -> bool:
    """Return whether numbers of values are those of the digits of codes below `size`, none too many."""
    return len(digits) > 1 and math.prod(digits) >= size > math.prod(digits[:-1])
