"""The ranges of a conversion that many workers encode: what is begun, what is done, and what workers die of.

Ranges are taken in order, and their segments come back in any order. A piece of work whose worker died is a
suspect: it is tried by a worker that has nothing else to do, so that its next death has one reason.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from tokenstore.conversion.executors import MOST_DEATHS, all_bad
from tokenstore.conversion.images import ConversionPlan
from tokenstore.conversion.ranges import SampleRange, Segment

__all__ = ["Piece", "Work"]

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Piece:
    """A range, or a part of one that kills its workers, and its segment when it is done."""

    samples: SampleRange
    is_suspect: bool = False
    """True if a worker died while it had this piece, or the range that it is a part of."""
    deaths: int = 0
    segment: Segment | None = None


class Work:
    """The work of one conversion: a few `ranges` at a time, whose segments are yielded in order."""

    def __init__(self, plan: ConversionPlan, ranges: Iterator[SampleRange]) -> None:
        self._plan, self._ranges = plan, ranges
        self._next = next(ranges, None)
        self._begun: deque[list[Piece]] = deque()
        """The pieces of each range that was begun and not yielded, in order."""
        self._waiting: deque[Piece] = deque()
        """The pieces that are to be tried again."""

    @property
    def is_done(self) -> bool:
        """True if all segments were yielded."""
        return self._next is None and not self._begun

    def take(self, *, is_idle: bool, most: int) -> Piece | None:
        """Return the next piece for a worker, if there is one for it.

        A worker that is idle has no other piece: suspects wait for one, and everything else waits for them.
        Beyond `most` ranges that were begun and not yielded, no other is begun.
        """
        if self._waiting:
            return self._waiting.popleft() if is_idle else None
        if self._next is None or len(self._begun) >= most:
            return None
        piece = Piece(self._next)
        self._begun.append([piece])
        self._next = next(self._ranges, None)
        return piece

    def done(self, piece: Piece, segment: Segment) -> None:
        """Take the segment of a piece."""
        piece.segment = segment

    def again(self, piece: Piece) -> None:
        """Have a piece encoded again, whose segment was lost."""
        self._waiting.appendleft(piece)

    def died(self, piece: Piece, error: Exception) -> None:
        """Have a piece tried again whose worker died, in two halves if need be; or a sample count as bad.

        A range may kill as many workers as a sample before it is cut in two, and a part of it one.
        """
        samples, is_part = piece.samples, piece.is_suspect and not piece.deaths
        _log.warning("%s, samples %d to %d: %s", samples.split, samples.start, samples.stop - 1, error)
        piece.is_suspect, piece.deaths = True, piece.deaths + 1
        if piece.deaths < MOST_DEATHS and not (is_part and len(samples) > 1):
            self._waiting.appendleft(piece)
        elif len(samples) == 1:
            piece.segment = all_bad(self._plan, samples)
        else:
            halves = [Piece(half, is_suspect=True) for half in samples.halves()]
            pieces = next(pieces for pieces in self._begun if piece in pieces)
            place = pieces.index(piece)
            pieces[place : place + 1] = halves
            self._waiting.extendleft(reversed(halves))

    def finished(self) -> Iterator[Segment]:
        """Yield the segments that are the next in order, and forget them."""
        while self._begun and all(piece.segment is not None for piece in self._begun[0]):
            for piece in self._begun.popleft():
                assert piece.segment is not None
                yield piece.segment
