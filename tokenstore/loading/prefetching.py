"""The prefetch of an epoch's tokens from storage, span by span, while earlier spans are decoded."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from tokenstore.errors import DamageError
from tokenstore.format import TOKENS
from tokenstore.loading.sampling import Indices, Order, Steps
from tokenstore.machine import closed_at_end
from tokenstore.reading import Rows

__all__ = ["Prefetcher"]


class Prefetcher:
    """A thread that fetches columns, such as the tokens, of an epoch's steps for one rank, a span at a time.

    Spans are those of the order: the windows of a block shuffle or, for other orders, `span` positions.
    """

    def __init__(
        self,
        rows: Rows,
        order: Order,
        steps: Steps,
        rank: int,
        span: int,
        columns: Sequence[str] = (TOKENS,),
    ) -> None:
        self._rows = rows
        self._columns = columns
        self._order = order
        self._spans = order.fetch_spans(span)
        self._steps = steps
        self._rank = rank
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="tokenstore-fetch")
        closed_at_end(self)
        self._fetches: dict[int, Future[Any]] = {}
        """The fetches begun, by their spans' numbers."""
        self._current: list[Future[Any]] = []
        """The fetches of the last step asked for."""
        self._is_closed = False
        self._current_bounds = 0, 0
        """The positions [start, stop) of the current span; (0, 0) after a step that lies in two spans."""

    def close(self) -> None:
        """Begin no more fetches, and don't wait for a fetch under way."""
        if self._is_closed:
            return
        self._is_closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)

    def prefetch(self, step: int) -> list[Future[Any]]:
        """Return the fetches that a step's tokens are in, begun now if not before, and begin the next span's.

        A single result has all the step's tokens in memory. Several results are in the cache for a while.
        """
        positions = self._steps.positions(step, self._rank)
        start, stop = int(positions[0]), int(positions[-1]) + 1
        if self._current_bounds[0] <= start and stop <= self._current_bounds[1]:
            return self._current
        first, last = self._span_of(start), self._span_of(stop - 1)
        for span in range(first, last + 2):
            if span not in self._fetches and self._spans.bounds(span)[0] < self._steps.samples:
                self._fetches[span] = self._pool.submit(self._fetch, span)
        for span in [span for span in self._fetches if span < first]:
            del self._fetches[span]
        self._current = [self._fetches[span] for span in range(first, last + 1)]
        self._current_bounds = self._spans.bounds(first) if first == last else (0, 0)
        return self._current

    def _span_of(self, position: int) -> int:
        return self._spans.number_of(min(position, self._steps.samples - 1))

    def _fetch(self, span: int) -> Any:
        with contextlib.suppress(DamageError):  # reading the sample raises the error, in its batch's turn
            row_numbers = self._spans.row_numbers(span) if self._steps.world_size == 1 else None
            if row_numbers is None:
                row_numbers = self._order.fetched_rows(self._own_positions(*self._spans.bounds(span)))
            return self._rows.prefetch(row_numbers, self._columns)
        return None

    def _own_positions(self, start: int, stop: int) -> Indices:
        """Return the positions in [start, stop) that this rank takes."""
        size = self._steps.batch_size * self._steps.world_size
        first = max(0, (start - self._steps.consumed) // size)
        last = min(len(self._steps), -(-(stop - self._steps.consumed) // size) + 1)
        parts = [np.empty(0, np.int64)]
        for step in range(first, last):
            positions = self._steps.positions(step, self._rank)
            first_in, end = np.searchsorted(positions, (start, min(stop, self._steps.samples)))
            parts.append(positions[first_in:end])
        return np.concatenate(parts)
