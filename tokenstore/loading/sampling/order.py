"""The protocol of orders, the order of the rows as they are stored, and the checks that all orders share."""

from __future__ import annotations

import operator
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from tokenstore.loading.sampling.spans import EqualSpans, Spans

__all__ = ["MOST_SAMPLES", "Indices", "Listed", "Order", "Sequential", "positions_within", "whole_number"]

Indices: TypeAlias = npt.NDArray[np.int64]

MOST_SAMPLES = 2**62
"""The length of the longest epoch: 64-bit arithmetic needs the other bits for intermediate values."""


class Order(Protocol):
    """The order of an epoch: a row number for each of its positions."""

    lanes: int = 1
    """The number of lanes: lane k has the positions p with p modulo `lanes` equal to k."""

    def __len__(self) -> int:
        """Return the number of positions of the epoch."""
        ...

    def __call__(self, positions: Indices) -> Indices:
        """Return the row numbers (n,) int64 at positions (n,). Raises IndexError for one not in [0, len)."""
        ...

    def fetch_spans(self, size: int) -> Spans:
        """Return the spans that a reader fetches at once: `size` positions each, or the order's own."""
        return EqualSpans(size)

    def lane_keys(self, positions: Indices) -> Indices:
        """Return a number (n,) int64 for the lane of each position (n,), the same for an order without lanes.

        Where positions are sorted by the numbers, and cut into equal parts for ranks, any stretch of an epoch
        gives a rank about the same lanes. Raises IndexError as `__call__` does.
        """
        return np.zeros_like(positions_within(positions, len(self)))

    def fetched_rows(self, positions: Indices) -> Indices:
        """Return the row numbers (m,) to fetch for positions (n,): theirs, and those soon to come with them.

        Rows that come with others need not be named. Raises IndexError as `__call__` does.
        """
        return self(positions)

    def samples_in_memory(self, size: int) -> int:
        """Return for how many samples a reader needs memory to fetch each block of samples once.

        `size` is that of `fetch_spans`. An order without blocks needs none: 0.
        """
        return 0


class Sequential(Order):
    """The rows as they are stored. Raises ValueError for a number of samples not in [0, 2**62]."""

    def __init__(self, samples: int) -> None:
        self._samples = whole_number("samples", samples, 0, MOST_SAMPLES)

    def __len__(self) -> int:
        return self._samples

    def __repr__(self) -> str:
        return f"Sequential({self._samples})"

    @override
    def __call__(self, positions: Indices) -> Indices:
        return positions_within(positions, self._samples)


class Listed(Order):
    """The row numbers (N,) int64 of a list, which may have a row several times."""

    def __init__(self, rows: Indices) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @override
    def __call__(self, positions: Indices) -> Indices:
        return self._rows[positions_within(positions, len(self._rows))]


def positions_within(positions: Any, samples: int) -> Indices:
    """Return positions (n,) as a new int64 array.

    Raises IndexError unless they are one-dimensional integers in [0, samples).
    """
    array = np.asarray(positions)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise IndexError(f"positions: expected (n,) integers, found {array.dtype} of shape {array.shape}")
    copied = np.array(array, np.int64)
    # subtle: as unsigned numbers, negative ones are too large.
    if copied.size and int(copied.view(np.uint64).max()) >= samples:
        wrong = array[(array < 0) | (array >= samples)][0]
        raise IndexError(
            f"positions: expected each in [0, {samples}), found {wrong}; "
            "take positions modulo the length to go on at the epoch's start"
        )
    return copied


def whole_number(name: str, value: Any, least: int, most: int | None = None) -> int:
    """Return the value as an int. Raises ValueError unless it is a whole number in [least, most]."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or number < least or (most is not None and number > most):
        limits = f"of at least {least}" if most is None else f"in [{least}, {most}]"
        raise ValueError(f"{name}: expected a whole number {limits}, found {value!r}")
    return number
