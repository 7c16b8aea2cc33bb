"""A full shuffle: every row of an epoch once, in an order that a key selects, without an array."""

from __future__ import annotations

import functools
from types import ModuleType

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from tokenstore.loading.sampling.order import (
    MOST_SAMPLES,
    Indices,
    Order,
    positions_within,
    whole_number,
)
from tokenstore.machine import importing_kernels
from tokenstore.randomness import hashed_key

__all__ = ["Permutation", "kernels", "load_kernels"]


class Permutation(Order):
    """A bijection of [0, samples), selected by integers such as a seed and an epoch; O(1) memory.

    The same key and number of samples give the same order on every platform. Keys of other order or length
    give unrelated permutations. The key's integers are taken modulo 2**64. Raises ValueError for a number of
    samples not in [0, 2**62], or a key that is not of integers in [-2**63, 2**64).
    """

    def __init__(self, samples: int, *key: int) -> None:
        self._samples = whole_number("samples", samples, 0, MOST_SAMPLES)
        self._key = key
        self._size = np.uint64(self._samples)
        self._state = np.uint64(hashed_key(*key))

    @functools.cached_property
    def round_keys(self) -> npt.NDArray[np.uint64]:
        """The keys of the network's rounds, (rounds,) uint64."""
        keys: npt.NDArray[np.uint64] = kernels().round_keys(self._state, self._size)
        return keys

    def __len__(self) -> int:
        return self._samples

    def __repr__(self) -> str:
        return f"Permutation({', '.join(map(str, (self._samples, *self._key)))})"

    @override
    def __call__(self, positions: Indices) -> Indices:
        row_numbers = positions_within(positions, self._samples)
        kernels().permuted(row_numbers, self._size, self.round_keys)
        return row_numbers

    def inverse(self, row_numbers: Indices) -> Indices:
        """Return the positions (n,) int64 of row numbers (n,). Raises IndexError for one out of range."""
        positions = positions_within(row_numbers, self._samples)
        kernels().inverted(positions, self._size, self.round_keys)
        return positions


@functools.cache
def kernels() -> ModuleType:
    """Return the module of compiled functions, which is imported on first use."""
    with importing_kernels:
        from tokenstore.loading.sampling import feistel
    return feistel


def load_kernels() -> None:
    """Import and run the compiled functions once, so that no later call waits for numba (about 0.3 s)."""
    Permutation(2, 0)(np.arange(2))
