"""The spans of an epoch: a reader fetches the samples of a span at once, ahead of their use."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
from typing_extensions import override

__all__ = ["EqualSpans", "Spans"]


class Spans(Protocol):
    """The spans of an epoch's positions, numbered from 0."""

    def number_of(self, position: int) -> int:
        """Return the number of the span that a position of the epoch is in."""
        ...

    def bounds(self, number: int) -> tuple[int, int]:
        """Return the positions [start, stop) of a span. Behind the last span, start is past the epoch."""
        ...

    def row_numbers(self, number: int) -> npt.NDArray[np.int64] | None:
        """Return a span's row numbers (n,) in the order of storage, or None for spans of positions alone."""
        ...


class EqualSpans(Spans):
    """The spans of `size` positions each."""

    def __init__(self, size: int) -> None:
        self._size = size

    @override
    def number_of(self, position: int) -> int:
        return position // self._size

    @override
    def bounds(self, number: int) -> tuple[int, int]:
        return number * self._size, (number + 1) * self._size

    @override
    def row_numbers(self, number: int) -> None:
        return None
