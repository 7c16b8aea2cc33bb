"""What goes wrong between a client and a server: faults, and the requests that meet them."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one request; the functions below make the usual ones."""

    latency: float = 0.0
    """Seconds before anything else happens."""
    gate: threading.Barrier | None = None
    """Where the request waits, before anything else happens, until enough others have come."""
    status: int | None = None
    """The answer instead of the server's, with `body`."""
    body: bytes = b""
    cut: Literal["reset", "close", "stall"] | None = None
    """What becomes of the connection once `after` bytes of the answer's body were sent; None: before its
    first line."""
    after: int | None = None
    rate: float | None = None
    """Bytes of the body a second."""
    flip: int | None = None
    """The byte of the body that has its lowest bit changed."""
    forwarded: bool = True
    """Whether the server gets the request."""


def latency(seconds: float) -> Fault:
    """An answer that comes so much later."""
    return Fault(latency=seconds)


def together(gate: threading.Barrier) -> Fault:
    """An answer that comes once as many requests as the gate is for are under way."""
    return Fault(gate=gate)


def status(code: int, body: bytes = b"") -> Fault:
    """An answer that is not the server's, which is not asked."""
    return Fault(status=code, body=body, forwarded=False)


def reset(after: int | None = None) -> Fault:
    """A reset connection: before the server is asked, or after so many bytes of its answer's body."""
    return Fault(cut="reset", after=after, forwarded=after is not None)


def lose_answer() -> Fault:
    """The server does what it is asked, but the connection is reset before its answer comes."""
    return Fault(cut="reset")


def truncate(after: int) -> Fault:
    """A connection closed after so many bytes of the body; Content-Length says more."""
    return Fault(cut="close", after=after)


def stall(after: int | None = None) -> Fault:
    """Nothing more comes: no answer at all, or none after so many bytes of its body."""
    return Fault(cut="stall", after=after, forwarded=after is not None)


def drip(rate: float) -> Fault:
    """A body of so many bytes a second."""
    return Fault(rate=rate)


def flip(offset: int) -> Fault:
    """One bit of the body's byte at `offset` is changed."""
    return Fault(flip=offset)


@dataclass(eq=False)
class Request:
    """A request as the proxy saw it; `status` is 0 and `sent` grows until its answer has gone out."""

    index: int
    method: str
    path: str
    """With the query, as it was sent."""
    range: str | None
    received: int = 0
    """Bytes of its body."""
    status: int = 0
    sent: int = 0
    """Bytes of the answer's body that were sent."""
    fault: Fault | None = None

    def matches(self, method: str | None = None, path: str = "") -> bool:
        """Whether it has the method, and a regular expression is found in its path."""
        return method in (None, self.method) and re.search(path, self.path) is not None


@dataclass(frozen=True)
class Rule:
    """A fault for the requests of a method whose path a regular expression is found in.

    Of the requests that match, `first` (from 0) is the first that fails, and `count` of them do.
    """

    fault: Fault
    method: str | None = None
    path: str = ""
    first: int = 0
    count: int | None = None
    """None: for ever."""


Plan: TypeAlias = Callable[[Request], Fault | None] | Sequence[Rule]
"""Which request meets which fault; of several rules that are due the first counts."""


class Planned:
    """A plan, and how many requests each of its rules has seen."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._seen: dict[int, int] = {}

    def fault(self, request: Request) -> Fault | None:
        """What happens to the next request."""
        if callable(self._plan):
            return self._plan(request)
        found = None
        for number, rule in enumerate(self._plan):
            if request.matches(rule.method, rule.path):
                seen = self._seen.get(number, 0)
                self._seen[number] = seen + 1
                due = rule.first <= seen and (rule.count is None or seen < rule.first + rule.count)
                found = rule.fault if due and found is None else found
        return found
