"""A shuffle for storage where rows are fetched in blocks: blocks are permuted, then rows within windows."""

from __future__ import annotations

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
from tokenstore.loading.sampling.permutation import Permutation, kernels
from tokenstore.loading.sampling.spans import Spans
from tokenstore.randomness import hashed_key

__all__ = ["BlockShuffle", "bounded_starts", "checked_starts"]


class BlockShuffle(Order):
    """Every row once, one window of `window` random blocks after the other; O(blocks) memory.

    Block k is the rows [starts[k], starts[k + 1]), which are fetched at once. The blocks are permuted, every
    `window` of them form a window, and the rows of a window are fully permuted. A reader that keeps the
    blocks of a window in memory fetches each block once an epoch. One window of all blocks is a full shuffle.
    Raises ValueError for starts (blocks + 1,) that are not integers ascending from 0, a window below 1, or
    a seed or epoch that `Permutation` refuses.
    """

    def __init__(self, starts: Indices, window: int, seed: int, epoch: int) -> None:
        starts = checked_starts(starts)
        blocks = len(starts) - 1
        self._window = whole_number("window", window, 1)
        self._seed, self._epoch = seed, epoch
        permuted = Permutation(blocks, seed, epoch)(np.arange(blocks, dtype=np.int64))
        self._first_rows: Indices = starts[permuted]
        self._edges = np.zeros(blocks + 1, np.int64)
        np.cumsum(np.diff(starts)[permuted], out=self._edges[1:])
        self._blocks_per_window = min(self._window, max(blocks, 1))
        self._state = np.uint64(hashed_key(seed, epoch))

    def __len__(self) -> int:
        return int(self._edges[-1])

    def __repr__(self) -> str:
        return (
            f"BlockShuffle(samples={len(self)}, blocks={len(self._first_rows)}, "
            f"window={self._window}, seed={self._seed}, epoch={self._epoch})"
        )

    @override
    def __call__(self, positions: Indices) -> Indices:
        row_numbers = positions_within(positions, len(self))
        kernels().window_rows(
            row_numbers, self._edges, self._first_rows, self._blocks_per_window, self._state
        )
        return row_numbers

    @override
    def fetch_spans(self, size: int) -> Spans:
        return _Windows(self)

    @property
    def windows(self) -> int:
        """The number of windows of the epoch."""
        return -(-len(self._first_rows) // self._blocks_per_window)

    def window_of(self, positions: Indices) -> Indices:
        """Return the windows (n,) int64 of positions (n,). Raises IndexError for one out of range."""
        checked = positions_within(positions, len(self))
        return (np.searchsorted(self._edges, checked, side="right") - 1) // self._blocks_per_window

    def window_span(self, window: int) -> tuple[int, int]:
        """Return the positions [start, stop) of a window. Raises IndexError for a window out of range."""
        if not 0 <= window < self.windows:
            raise IndexError(f"window: expected one of {self.windows}, counted from 0, found {window}")
        first = window * self._blocks_per_window
        last = min(first + self._blocks_per_window, len(self._first_rows))
        return int(self._edges[first]), int(self._edges[last])

    def window_blocks(self, window: int) -> Indices:
        """Return a window's row numbers (n,) int64, not shuffled. Raises IndexError as `window_span` does."""
        start, stop = self.window_span(window)
        first = window * self._blocks_per_window
        edges = self._edges[first : first + self._blocks_per_window + 1]
        first_rows = self._first_rows[first : first + self._blocks_per_window]
        return np.arange(start, stop) + np.repeat(first_rows - edges[:-1], np.diff(edges))


class _Windows(Spans):
    """The windows of a block shuffle as spans."""

    def __init__(self, order: BlockShuffle) -> None:
        self._order = order

    @override
    def number_of(self, position: int) -> int:
        return int(self._order.window_of(np.array([position]))[0])

    @override
    def bounds(self, number: int) -> tuple[int, int]:
        if number >= self._order.windows:
            return len(self._order), len(self._order)
        return self._order.window_span(number)

    @override
    def row_numbers(self, number: int) -> Indices:
        return self._order.window_blocks(number)


def bounded_starts(starts: Indices, limit: int) -> Indices:
    """Join neighbouring blocks, equally many each, so that at most `limit` are left, and return their starts.

    The last joined block may be of fewer blocks. Starts (blocks + 1,) and the result are int64. Raises
    ValueError for starts that `BlockShuffle` refuses, or a limit below 1.
    """
    starts = checked_starts(starts)
    joined = max(1, -(-(len(starts) - 1) // whole_number("limit", limit, 1)))
    return np.append(starts[:-1:joined], starts[-1])


def checked_starts(starts: npt.ArrayLike) -> Indices:
    """Return starts (blocks + 1,) as int64. Raises ValueError unless they are integers ascending from 0."""
    array = np.asarray(starts)
    if array.ndim != 1 or not array.size or array.dtype.kind not in "iu":
        raise ValueError(
            f"starts: expected (blocks + 1,) integers, found {array.dtype} of shape {array.shape}"
        )
    checked = array.astype(np.int64, copy=False)
    wrong = np.flatnonzero(np.diff(checked) <= 0)
    if checked[0] or wrong.size or checked[-1] > MOST_SAMPLES:
        at = int(wrong[0]) if wrong.size else 0
        raise ValueError(
            "starts: expected each block's first row, ascending from 0, and the number of rows; "
            f"found {checked[at : at + 2].tolist()} at block {at}"
        )
    return checked
