"""A full shuffle: every row of an epoch once, in an order that a key selects, without an array."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tokenstore.loading.sampling.feistel import inverted, permuted, round_keys
from tokenstore.loading.sampling.order import MOST_SAMPLES, Indices, positions_within, whole_number
from tokenstore.randomness import folded, key_words

__all__ = ["Permutation"]


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
