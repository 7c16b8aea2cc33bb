"""Windows of frames: samples of T frames that follow each other in one segment of a video."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from typing_extensions import override

from tokenstore.codecs import Column
from tokenstore.errors import Parameter, SourceError
from tokenstore.sources.base import SourceColumn
from tokenstore.sources.layouts.rows import CodeRows
from tokenstore.sources.names import digest

__all__ = ["WindowColumn", "WindowRows", "Windows"]


@dataclass(frozen=True)
class Windows:
    """The windows of `length` frames, `stride` apart, in segments of frames that lie one behind another."""

    length: int
    stride: int
    segments: npt.NDArray[np.int64]
    """The first frame of each segment, and at the end the number of frames."""
    firsts: npt.NDArray[np.int64]
    """The first window of each segment, and at the end the number of windows."""

    @classmethod
    def of(
        cls, lengths: npt.NDArray[np.int64], window: int | None, stride: int | None, where: str
    ) -> Windows:
        """Return the windows in segments of some lengths.

        Raises SourceError for lengths below 1, for a stride without a window, and where no segment is as long
        as a window.
        """
        for name, value in (("window", window), ("stride", stride)):
            parameter = Parameter(name, value)
            if value is not None and (value < 1 or (name == "stride" and window is None)):
                needed = "a window" if name == "stride" and value >= 1 else "1 or more"
                raise SourceError(f"{where}: {parameter}: expected {needed}", parameters=[parameter])
        length = 1 if window is None else window
        step = length if stride is None else stride
        counts = np.where(lengths >= length, (lengths - length) // step + 1, 0)
        if not counts.sum():
            parameter = Parameter("window", window)
            raise SourceError(
                f"{where}: {parameter}: expected segments of {length} frames, found none of more than "
                f"{int(lengths.max(initial=0))}",
                parameters=[parameter],
            )
        return cls(length, step, _sums(lengths), _sums(counts))

    def __len__(self) -> int:
        return int(self.firsts[-1])

    @property
    def unused(self) -> int:
        """The frames at the ends of segments that are in no window."""
        counts, lengths = np.diff(self.firsts), np.diff(self.segments)
        covered = np.where(counts > 0, (counts - 1) * self.stride + self.length, 0)
        return int((lengths - covered).sum())

    def segment_of(self, windows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the segment of each window."""
        found: npt.NDArray[np.int64] = np.searchsorted(self.firsts, windows, "right") - 1
        return found

    def frames(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Return the first frame of windows [start, stop)."""
        windows = np.arange(start, stop)
        segments = self.segment_of(windows)
        firsts: npt.NDArray[np.int64] = (
            self.segments[segments] + (windows - self.firsts[segments]) * self.stride
        )
        return firsts

    def take(self, read: Callable[[int, int], npt.NDArray[Any]], start: int, stop: int) -> npt.NDArray[Any]:
        """Return the values (stop - start, length, ...) of windows, by `read(first, last)` of frames."""
        firsts = self.frames(start, stop)
        if not len(firsts):
            empty = read(0, 0)
            return np.empty((0, self.length, *empty.shape[1:]), empty.dtype)
        # windows of one segment that overlap, or lie side by side, are one read of a file
        are_apart = np.diff(firsts) > self.length
        cuts = np.flatnonzero(are_apart | (np.diff(self.segment_of(np.arange(start, stop))) > 0)) + 1
        parts = []
        for group in np.split(firsts, cuts):
            begin = int(group[0])
            frames = read(begin, int(group[-1]) + self.length)
            parts.append(frames[(group - begin)[:, None] + np.arange(self.length)])
        return np.concatenate(parts)


def _sums(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))


@dataclass(frozen=True)
class WindowRows(CodeRows):
    """Samples of T frames (T, *grid of a frame), or of one frame (*grid) where no window is asked for."""

    of_frames: CodeRows
    windows: Windows
    is_single: bool
    """True for samples that are frames."""

    @property
    @override
    def where(self) -> str:
        return self.of_frames.where

    @property
    @override
    def grid(self) -> tuple[int, ...]:
        return self.of_frames.grid if self.is_single else (self.windows.length, *self.of_frames.grid)

    @override
    def __len__(self) -> int:
        return len(self.windows)

    @override
    def rows(self, start: int, stop: int) -> npt.NDArray[np.generic]:
        rows = self.windows.take(self.of_frames.rows, start, stop)
        return rows.reshape(stop - start, *self.grid)

    @override
    def names(self, start: int, stop: int) -> pa.Array:
        frames = self.windows.frames(start, stop)
        if not len(frames):
            return pa.array([], pa.string())
        names = self.of_frames.names(int(frames[0]), int(frames[-1]) + 1)
        return names.take(pa.array(frames - frames[0]))

    @override
    def fingerprint(self) -> str:
        windows = self.windows
        return digest(
            self.of_frames.fingerprint(),
            windows.length,
            windows.stride,
            windows.segments,
            str(self.is_single),
        )


@dataclass(frozen=True)
class WindowColumn(SourceColumn):
    """Values of frames beside the codes: (T, *shape), or (*shape) of a sample that is one frame."""

    of_frames: CodeRows
    windows: Windows
    is_single: bool
    dtype: np.dtype[np.generic]

    @property
    @override
    def column(self) -> Column:
        shape = self.of_frames.grid if self.is_single else (self.windows.length, *self.of_frames.grid)
        return Column(self.dtype, shape)

    @override
    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        values = self.windows.take(self.of_frames.rows, start, stop)
        return values.reshape(stop - start, *self.column.shape)

    @override
    def fingerprint(self) -> str:
        return digest(self.of_frames.fingerprint(), str(self.column))
