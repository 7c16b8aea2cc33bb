"""A shuffle for storage where rows are fetched in blocks: blocks are permuted, then rows within windows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tokenstore.loading.sampling.feistel import window_rows
from tokenstore.loading.sampling.order import MOST_SAMPLES, Indices, positions_within, whole_number
from tokenstore.loading.sampling.permutation import Permutation
from tokenstore.randomness import folded, key_words

__all__ = ["BlockShuffle", "bounded_starts", "checked_starts"]


class BlockShuffle:
    """Every row once, a window of `window` random blocks after the other; O(blocks) memory.

    Block k is the rows [starts[k], starts[k + 1]), what is fetched as one. The blocks are permuted, every
    `window` of them form a window, and the rows of a window are fully permuted: a reader that holds the
    blocks of a window needs each block once an epoch. With one window, it is a full shuffle.
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
        self._runs_a_window = min(self._window, max(blocks, 1))
        self._state = np.uint64(folded(key_words(seed, epoch)))

    def __len__(self) -> int:
        return int(self._edges[-1])

    def __repr__(self) -> str:
        return (
            f"BlockShuffle(samples={len(self)}, blocks={len(self._first_rows)}, "
            f"window={self._window}, seed={self._seed}, epoch={self._epoch})"
        )

    def __call__(self, positions: Indices) -> Indices:
        """The rows (n,) int64 at positions (n,); raises IndexError for one out of range."""
        rows = positions_within(positions, len(self))
        window_rows(rows, self._edges, self._first_rows, self._runs_a_window, self._state)
        return rows

    @property
    def windows(self) -> int:
        """How many windows the epoch has."""
        return -(-len(self._first_rows) // self._runs_a_window)

    def window_of(self, positions: Indices) -> Indices:
        """The windows (n,) int64 of positions (n,); raises IndexError for one out of range."""
        checked = positions_within(positions, len(self))
        return (np.searchsorted(self._edges, checked, side="right") - 1) // self._runs_a_window

    def window_span(self, window: int) -> tuple[int, int]:
        """The positions [start, stop) of a window; raises IndexError where there is no such window."""
        if not 0 <= window < self.windows:
            raise IndexError(f"window: expected one of {self.windows}, counted from 0, found {window}")
        first = window * self._runs_a_window
        last = min(first + self._runs_a_window, len(self._first_rows))
        return int(self._edges[first]), int(self._edges[last])

    def window_blocks(self, window: int) -> Indices:
        """The rows (n,) int64 of a window, not shuffled; raises IndexError where there is no such window."""
        start, stop = self.window_span(window)
        first = window * self._runs_a_window
        edges = self._edges[first : first + self._runs_a_window + 1]
        first_rows = self._first_rows[first : first + self._runs_a_window]
        return np.arange(start, stop) + np.repeat(first_rows - edges[:-1], np.diff(edges))


def bounded_starts(starts: Indices, limit: int) -> Indices:
    """The starts of at most `limit` blocks, each of equally many neighbours joined; the last may be of fewer.

    starts (blocks + 1,) and the result are int64. Raises ValueError for starts that `BlockShuffle` refuses,
    or a limit below 1.
    """
    starts = checked_starts(starts)
    joined = max(1, -(-(len(starts) - 1) // whole_number("limit", limit, 1)))
    return np.append(starts[:-1:joined], starts[-1])


def checked_starts(starts: npt.ArrayLike) -> Indices:
    """Starts (blocks + 1,) as int64; raises ValueError unless they are integers ascending from 0."""
    given = np.asarray(starts)
    if given.ndim != 1 or not given.size or given.dtype.kind not in "iu":
        raise ValueError(
            f"starts: expected (blocks + 1,) integers, found {given.dtype} of shape {given.shape}"
        )
    found = given.astype(np.int64, copy=False)
    wrong = np.flatnonzero(np.diff(found) <= 0)
    if found[0] or wrong.size or found[-1] > MOST_SAMPLES:
        at = int(wrong[0]) if wrong.size else 0
        raise ValueError(
            "starts: expected each block's first row, ascending from 0, and the number of rows; "
            f"found {found[at : at + 2].tolist()} at block {at}"
        )
    return found
