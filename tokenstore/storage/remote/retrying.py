"""Trying a request again until it succeeds, fails for good, or runs out of time."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tokenstore.errors import DamageError, StorageError
from tokenstore.storage.redaction import Secrets
from tokenstore.storage.remote.faults import Fault, fault_of
from tokenstore.storage.remote.retries import DEADLINE_VARIABLE, Retries
from tokenstore.texts import printable

SLOWEST_RATE = 1e6
"""The slowest transfer, in bytes a second, for which storage is given time on top of `Retries`."""
_DAMAGED_ANSWERS = 3
"""The number of answers with missing or wrong bytes after which the file counts as damaged."""

_QUIET_SECONDS = 30.0
"""The seconds after a warning about a failed attempt in which there is no other."""
_said = -math.inf

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class Clock:
    """The clock that the retries of one request go by; a test may put another in its place."""

    def now(self) -> float:
        """Return the seconds since a fixed moment."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait before the next attempt."""
        await asyncio.sleep(seconds)


async def retried(
    attempt: Callable[[], Awaitable[_T]],
    retries: Retries,
    where: str,
    secrets: Secrets,
    jitter: random.Random,
    *,
    nbytes: int = 0,
    long: bool = False,
) -> _T:
    """Call `attempt` until it succeeds, and return its result.

    `nbytes` is the size of the transfer; a `long` attempt may take half of the deadline. `where` names the
    file in messages.

    Raises FileNotFoundError for a missing file, DamageError for a file that is too short or fails the
    storage's own checksum, StorageError for anything else. No error has a context, whose text could hold
    credentials.
    """
    clock = Clock()
    allowance = nbytes / SLOWEST_RATE
    deadline = retries.deadline + allowance
    end = clock.now() + deadline
    longest = max(retries.timeout, deadline / 2) if long else retries.timeout + allowance
    fault: Fault | None = None
    attempts = damaged = 0
    while True:
        started = clock.now()
        limit = min(longest, end - started)
        try:
            async with asyncio.timeout(limit):
                return await attempt()
        except (StorageError, DamageError):
            raise
        except asyncio.CancelledError:
            # subtle: aiohttp can hand on another request's cancellation
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            fault = Fault("passing", "it was cancelled")
        except Exception as error:
            # subtle: a last attempt cut short by the deadline says less than the attempt before it
            if fault is None or limit == longest or not isinstance(error, TimeoutError):
                fault = fault_of(error, secrets, clock.now() - started)
        attempts += 1
        damaged += fault.kind == "damaged"
        if fault.kind not in ("passing", "damaged") or damaged == _DAMAGED_ANSWERS:
            raise _lasting(fault, where)
        left = end - clock.now()
        if left < retries.first_delay:
            raise StorageError(
                f"{where}: no answer within {deadline:.3g} s ({attempts} attempt{'s' * (attempts > 1)}; "
                f"the last: {fault.text}). Check the address and the service; "
                f"{DEADLINE_VARIABLE}=SECONDS in the environment waits longer or less"
            )
        delay = retries.delay(attempts, left, jitter)
        text = printable(f"{where}: attempt {attempts} failed: {fault.text}")
        level = logging.WARNING if attempts == 1 and _is_new(started) else logging.INFO
        _log.log(level, "%s. Again in %.2f s, and for up to %.0f s", text, delay, left)
        await clock.sleep(delay)


def _is_new(now: float) -> bool:
    """Return True if no failed attempt was said for a while: many requests may fail at one time."""
    global _said
    if now - _said < _QUIET_SECONDS:
        return False
    _said = now
    return True


def _lasting(fault: Fault, where: str) -> Exception:
    if fault.kind == "missing":
        return FileNotFoundError(f"{where}: no such file")
    if fault.kind == "damaged":
        return DamageError(f"{where}: {fault.text}. Restore the file from a copy")
    if fault.kind == "refused":
        advice = "check the credentials in storage_options or the environment"
        return StorageError(f"{where}: access was refused ({fault.text}): {advice}")
    return StorageError(f"{where}: {fault.text}. Check the URL and storage_options")
