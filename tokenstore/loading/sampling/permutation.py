"""A full shuffle: every row of an epoch once, in an order that a key selects, without an array."""

from __future__ import annotations

import operator

import numpy as np
import numpy.typing as npt

from tokenstore.sampling.feistel import folded, inverted, permuted, round_keys
from tokenstore.sampling.order import MOST_SAMPLES, Indices, positions_within, whole_number

__all__ = ["Permutation", "key_words"]


class Permutation:
    """A bijection of [0, samples), selected by integers such as a seed and an epoch; O(1) memory.

    The same key and number of samples give the same order on every platform. Keys of other order or length
    give unrelated permutations. Raises ValueError for a number of samples not in [0, 2**62], or a key that is
    not of integers in [-2**63, 2**64), which are taken modulo 2**64.
    """

    def __init__(self, samples: int, *key: int) -> None:
        self._samples = whole_number("samples", samples, 0, MOST_SAMPLES)
        self._key = key
        self._size = np.uint64(self._samples)
        state = np.uint64(folded(key_words(*key)))
        self._round_keys: npt.NDArray[np.uint64] = round_keys(state, self._size)

    def __len__(self) -> int:
        return self._samples

    def __repr__(self) -> str:
        return f"Permutation({', '.join(map(str, (self._samples, *self._key)))})"

    def __call__(self, positions: Indices) -> Indices:
        """The rows (n,) int64 at positions (n,); raises IndexError for one out of range."""
        rows = positions_within(positions, self._samples)
        permuted(rows, self._size, self._round_keys)
        return rows

    def inverse(self, indices: Indices) -> Indices:
        """The positions (n,) int64 of rows (n,); raises IndexError for one out of range."""
        positions = positions_within(indices, self._samples)
        inverted(positions, self._size, self._round_keys)
        return positions


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
