"""Faults between a client and a server, and the requests that meet them."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias


@dataclass(frozen=True)
class Fault:
    """A fault of one request; the functions below make the usual ones."""

    latency: float = 0.0
    """The seconds before anything else happens."""
    gate: threading.Barrier | None = None
    """The gate at which the request first waits until enough others have come."""
    status: int | None = None
    """The answer instead of the server's, with `body`."""
    body: bytes = b""
    cut: Literal["reset", "close", "stall"] | None = None
    """The end of the connection after `after` bytes of the answer's body, or before its first line if that
    is None."""
    after: int | None = None
    rate: float | None = None
    """The bytes of the body a second."""
    flip: int | None = None
    """The byte of the body that has its lowest bit changed."""
    forwarded: bool = True
    """True if the server gets the request."""


def latency(seconds: float) -> Fault:
    """Make an answer come some seconds later."""
    return Fault(latency=seconds)


def together(gate: threading.Barrier) -> Fault:
    """Hold an answer back until as many requests as the gate is for are under way."""
    return Fault(gate=gate)


def status(code: int, body: bytes = b"") -> Fault:
    """Answer with a status code, without asking the server."""
    return Fault(status=code, body=body, forwarded=False)


def reset(after: int | None = None) -> Fault:
    """Reset the connection: before the server is asked, or after so many bytes of its answer's body."""
    return Fault(cut="reset", after=after, forwarded=after is not None)


def lose_answer() -> Fault:
    """Let the server do what it is asked, and reset the connection before its answer."""
    return Fault(cut="reset")


def truncate(after: int) -> Fault:
    """Close the connection after so many bytes of the body, though Content-Length says more."""
    return Fault(cut="close", after=after)


def stall(after: int | None = None) -> Fault:
    """Send nothing more: no answer at all, or nothing after so many bytes of its body."""
    return Fault(cut="stall", after=after, forwarded=after is not None)


def drip(rate: float) -> Fault:
    """Send a body at so many bytes a second."""
    return Fault(rate=rate)


def flip(offset: int) -> Fault:
    """Change one bit of the body's byte at `offset`."""
    return Fault(flip=offset)


@dataclass(eq=False)
class Request:
    """A request as the proxy saw it; `status` is 0 and `sent` grows until the whole answer is out."""

    index: int
    method: str
    path: str
    """The path with its query, as it was sent."""
    range: str | None
    received: int = 0
    """The bytes of the request's body."""
    status: int = 0
    sent: int = 0
    """The bytes of the answer's body that were sent."""
    fault: Fault | None = None

    def matches(self, method: str | None = None, path: str = "") -> bool:
        """Return whether the request has the method, and a path that the regular expression is found in."""
        return method in (None, self.method) and re.search(path, self.path) is not None


@dataclass(frozen=True)
class Rule:
    """A fault for the requests that have a method, and a path that a regular expression is found in.

    Of the matching requests, `count` fail, beginning with number `first` (from 0).
    """

    fault: Fault
    method: str | None = None
    path: str = ""
    first: int = 0
    count: int | None = None
    """The number of requests that fail; None: all."""


Plan: TypeAlias = Callable[[Request], Fault | None] | Sequence[Rule]
"""The faults by request: a function, or rules of which the first that matches counts."""


class Planned:
    """A plan, and how many requests each of its rules has seen."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._seen: dict[int, int] = {}

    def fault(self, request: Request) -> Fault | None:
        """Return the fault of the next request, or None."""
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
