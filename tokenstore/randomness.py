"""Keys of integers, such as (seed, epoch, row), hashed to one 64-bit number that seeds a generator.

The hash is built of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
2014). Its arithmetic is on whole numbers modulo 2**64, so a key gives the same number on every platform.
"""

from __future__ import annotations

import operator
from typing import Final

__all__ = ["FIRST_FACTOR", "GAMMA", "SECOND_FACTOR", "check_key", "derived_seed", "hashed_key"]

GAMMA: Final = 0x9E3779B97F4A7C15
"""The step between two states of SplitMix64: 2**64 over the golden ratio, rounded to an odd number."""
FIRST_FACTOR: Final = 0xBF58476D1CE4E5B9
"""The first factor of SplitMix64's mixing function."""
SECOND_FACTOR: Final = 0x94D049BB133111EB
"""The second factor of SplitMix64's mixing function."""

_WORD: Final = 2**64 - 1
"""The largest 64-bit word; `x & _WORD` is x modulo 2**64."""


def derived_seed(*key: int) -> int:
    """Return the seed in [0, 2**63) of a generator for a key, such as `torch.Generator().manual_seed` takes.

    Raises ValueError as `check_key` does.
    """
    return hashed_key(*key) >> 1


def hashed_key(*key: int) -> int:
    """Return one number in [0, 2**64) that depends on every integer of a key and on their order.

    Integers are taken modulo 2**64. Raises ValueError as `check_key` does.
    """
    check_key(*key)
    state = 0
    for integer in key:
        state = _mixed(((state ^ operator.index(integer) & _WORD) + GAMMA) & _WORD)
    return state


def check_key(*key: int) -> None:
    """Raise ValueError unless a key's parts are integers in [-2**63, 2**64)."""
    for integer in key:
        try:
            number = operator.index(integer)
        except TypeError:
            raise ValueError(f"seed: expected whole numbers, found {key!r}") from None
        if not -(2**63) <= number < 2**64:
            raise ValueError(f"seed: expected whole numbers in [-2**63, 2**64), found {number}")


def _mixed(x: int) -> int:
    """Return SplitMix64's mix of a 64-bit word: a bijection in which every bit depends on all bits of x."""
    x = ((x ^ (x >> 30)) * FIRST_FACTOR) & _WORD
    x = ((x ^ (x >> 27)) * SECOND_FACTOR) & _WORD
    return x ^ (x >> 31)
