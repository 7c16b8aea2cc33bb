"""The pieces of a job that many workers do: what is begun, what is done, and what workers die of.

Pieces are taken in order, and their results come back in any order. A piece whose worker died is a suspect:
it is tried by a worker that has nothing else to do, so that its next death has one reason. A worker that
ended with its machine died of no piece, so machines may come and go.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from tokenstore.conversion.ranges import MOST_DEATHS

__all__ = ["MOST_ENDS", "NODE_SECONDS", "Clock", "Job", "Nodes", "Piece", "Work"]

MOST_ENDS = 12
"""The workers that may be lost with a piece, also by the end of their machines, before it counts as deadly:
a sample that exhausts the memory of a machine can end that too."""
NODE_SECONDS = 30.0
"""The time in which a cluster notices that a machine is gone."""
_LOOK_SECONDS = 0.5
"""The time between two looks at the machines of a cluster."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_ResultOf = TypeVar("_ResultOf", covariant=True)
_log = logging.getLogger(__name__)


class Job(Protocol[_Item, _ResultOf]):
    """A job for many workers: how its items are cut, and what becomes of one that its workers die of."""

    def halves(self, item: _Item) -> Sequence[_Item]:
        """Return the two halves of an item, in order; none of one that cannot be cut."""

    def lost(self, item: _Item, error: Exception) -> _ResultOf:
        """Return the result of an item that workers die of, or raise WorkerError."""


class Nodes(Protocol):
    """The machines of a cluster."""

    def alive(self) -> Collection[str]:
        """Return the ids of the machines that are part of the cluster."""


class Clock:
    """The clock by which machines are waited for; a test may put another in its place."""

    def now(self) -> float:
        """Return the seconds since a fixed moment."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


@dataclass(eq=False)
class Piece(Generic[_Item, _Result]):
    """An item, or a part of one that kills its workers, and its result when it is done."""

    item: _Item
    is_part: bool = False
    """True for a part of an item that workers died of."""
    is_suspect: bool = False
    """True if a worker may have died of this piece, or of the item that it is a part of."""
    deaths: list[str] = field(default_factory=list)
    """The machine of each worker that died while it had this piece."""
    since: dict[str, float] = field(default_factory=dict)
    """The time of the first death on each machine, of this piece or the item that it is a part of."""
    result: _Result | None = None


class Work(Generic[_Item, _Result]):
    """The work of one job: a few `items` at a time, whose results are yielded in order."""

    def __init__(
        self, job: Job[_Item, _Result], items: Iterator[_Item], nodes: Nodes, clock: Clock | None = None
    ) -> None:
        self._job, self._items = job, items
        self._nodes, self._clock = nodes, clock or Clock()
        self._next = next(items, None)
        self._begun: deque[list[Piece[_Item, _Result]]] = deque()
        """The pieces of each item that was begun and not yielded, in order."""
        self._waiting: deque[Piece[_Item, _Result]] = deque()
        """The pieces that are to be tried again."""

    @property
    def is_done(self) -> bool:
        """True if all results were yielded."""
        return self._next is None and not self._begun

    def take(self, *, is_idle: bool, most: int) -> Piece[_Item, _Result] | None:
        """Return the next piece for a worker, if there is one for it.

        A worker that is idle has no other piece: suspects wait for one, and everything else waits for them.
        Beyond `most` items that were begun and not yielded, no other is begun.
        """
        if self._waiting:
            return self._waiting.popleft() if is_idle or not self._waiting[0].is_suspect else None
        if self._next is None or len(self._begun) >= most:
            return None
        piece: Piece[_Item, _Result] = Piece(self._next)
        self._begun.append([piece])
        self._next = next(self._items, None)
        return piece

    def done(self, piece: Piece[_Item, _Result], result: _Result) -> None:
        """Take the result of a piece."""
        piece.result = result

    def again(self, piece: Piece[_Item, _Result]) -> None:
        """Have a piece done again, whose result was lost."""
        self._waiting.appendleft(piece)

    def died(self, piece: Piece[_Item, _Result], error: Exception, node: str) -> None:
        """Have a piece tried again whose worker died on a machine, in two halves if need be; or give it up.

        An item may kill `MOST_DEATHS` workers before it is cut in two, a part of it one, and what cannot be
        cut `MOST_DEATHS` again. Workers that ended with their machines count only from `MOST_ENDS` on.
        Raises WorkerError where the job does.
        """
        _log.warning("%s: %s", piece.item, error)
        piece.deaths.append(node)
        piece.since.setdefault(node, self._clock.now())
        halves = self._job.halves(piece.item)
        if not self._is_deadly(piece, MOST_DEATHS if not (piece.is_part and halves) else 1):
            self._waiting.appendleft(piece)
        elif halves:
            self._cut(piece, halves)
        elif self._stays_deadly(piece):
            piece.result = self._job.lost(piece.item, error)
        else:
            self._waiting.appendleft(piece)

    def _is_deadly(self, piece: Piece[_Item, _Result], most: int) -> bool:
        """Return True if so many workers have died of a piece; say whether it is a suspect."""
        by_itself = self._by_itself(piece)
        piece.is_suspect = piece.is_part or by_itself > 0 or len(piece.deaths) >= MOST_DEATHS
        return by_itself >= most or len(piece.deaths) >= MOST_ENDS

    def _by_itself(self, piece: Piece[_Item, _Result]) -> int:
        """Return how many workers died of a piece on machines that are still there."""
        alive = self._nodes.alive()
        return sum(node in alive for node in piece.deaths)

    def _stays_deadly(self, piece: Piece[_Item, _Result]) -> bool:
        """Wait until the end of a machine would be known, and return True if the piece is deadly then too.

        A machine that is taken away may end the processes on it first.
        """
        end = max(piece.since[node] for node in piece.deaths) + NODE_SECONDS
        while (is_deadly := self._is_deadly(piece, MOST_DEATHS)) and (left := end - self._clock.now()) > 0:
            if len(piece.deaths) >= MOST_ENDS:
                break
            self._clock.sleep(min(left, _LOOK_SECONDS))
        return is_deadly

    def _cut(self, piece: Piece[_Item, _Result], halves: Sequence[_Item]) -> None:
        """Put two halves in the place of a piece."""
        parts: list[Piece[_Item, _Result]] = [
            Piece(half, is_part=True, is_suspect=True, since=dict(piece.since)) for half in halves
        ]
        pieces = next(pieces for pieces in self._begun if piece in pieces)
        place = pieces.index(piece)
        pieces[place : place + 1] = parts
        self._waiting.extendleft(reversed(parts))

    def finished(self) -> Iterator[_Result]:
        """Yield the results that are the next in order, and forget them."""
        while self._begun and all(piece.result is not None for piece in self._begun[0]):
            for piece in self._begun.popleft():
                assert piece.result is not None
                yield piece.result
