"""Keys of integers, such as (seed, epoch, row), hashed to one 64-bit number.

The hash is built of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
2014): the same on every platform.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenstore.machine import compiled

GAMMA = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_27, _30, _31 = (np.uint64(value) for value in (27, 30, 31))


@compiled
def mixed(x: Any) -> Any:
    x = (x ^ (x >> _30)) * _FIRST
    x = (x ^ (x >> _27)) * _SECOND
    return x ^ (x >> _31)


@compiled
def keyed(state: Any, word: Any) -> Any:
    return mixed((state ^ word) + GAMMA)


@compiled
def folded(words: Any) -> Any:
    """One uint64 that depends on every word of a key (k,) uint64 and on their order."""
    state = np.uint64(0)
    for word in words:
        state = keyed(state, word)
    return state


def key_words(*key: int) -> npt.NDArray[np.uint64]:
    """A key's integers (k,) modulo 2**64; raises ValueError where one is not in [-2**63, 2**64)."""
    try:
        words = [operator.index(word) for word in key]
    except TypeError:
        raise ValueError(f"seed: expected whole numbers, found {key!r}") from None
    for word in words:
        if not -(2**63) <= word < 2**64:
            raise ValueError(f"seed: expected whole numbers in [-2**63, 2**64), found {word}")
    return np.array([word % 2**64 for word in words], np.uint64)
