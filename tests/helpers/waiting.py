"""Waiting in tests: how long, for what, and on which clock.

No test's verdict depends on how busy the machine is. A bound in real seconds only guards against hanging, so
it is minutes long. How often a request is tried again is decided on a clock that moves without waiting.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from tokenstore.storage import Retries
from tokenstore.storage.remote.retrying import Clock
from tokenstore.writing.owner import Clock as OwnersClock

HANG = 300.0
"""The seconds after which whatever has not ended counts as hanging."""
PATIENT = Retries(deadline=600, timeout=300, first_delay=0.005, longest_delay=0.05)
"""Retries for faults that pass: soon again, and for longer than any test waits."""
RESTLESS = Retries(deadline=600, timeout=0.5, first_delay=0.005, longest_delay=0.05)
"""Retries for answers that stall now and then: an attempt is soon given up, the request never."""
RESIGNED = Retries(deadline=600, timeout=300, first_delay=60, longest_delay=600)
"""Retries for faults that stay, on a SleeplessClock: a handful of attempts, however long each takes."""
HASTY = Retries(deadline=2, timeout=1, first_delay=0.5, longest_delay=2)
"""Retries for answers that always stall, on a SleeplessClock: a few attempts of a second."""
BRIEF = Retries(deadline=0.5, timeout=0.25, first_delay=0.01, longest_delay=0.1)
"""Retries for faults that stay, which are met however busy the machine is."""


class SleeplessClock(Clock):
    """A clock that moves by the delays between attempts alone, and never waits."""

    def __init__(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        """Return the sum of all delays so far."""
        return self._now

    async def sleep(self, seconds: float) -> None:
        """Move the clock, and let other tasks run."""
        self._now += seconds
        await asyncio.sleep(0)


class MovingClock(OwnersClock):
    """A clock of those who wait for a store's owner, which moves by the waiting alone."""

    def __init__(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        """Return the sum of all waiting so far."""
        return self._now

    def sleep(self, seconds: float) -> None:
        """Move the clock."""
        self._now += seconds


class Running(Protocol):
    """A process that may have ended."""

    def poll(self) -> int | None:
        """Return the exit code, or None while the process runs."""


def wait_until(
    condition: Callable[[], bool],
    *,
    between: Callable[[], object] = lambda: None,
    process: Running | None = None,
) -> None:
    """Wait until a condition holds, calling `between` meanwhile.

    Raises AssertionError after HANG seconds, or if the `process` that makes the condition true has ended.
    """
    end = time.monotonic() + HANG
    while not condition():
        assert process is None or process.poll() is None, "the process ended too early"
        assert time.monotonic() < end, f"still not so after {HANG:.0f} s"
        between()
        time.sleep(0.005)
