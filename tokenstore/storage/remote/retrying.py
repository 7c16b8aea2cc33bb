"""How often and how long a request is tried."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from tokenstore.errors import DamageError, StorageError
from tokenstore.storage.remote.faults import Fault, fault_of
from tokenstore.storage.remote.redaction import Secrets

SLOWEST_RATE = 1e6
"""Bytes a second that storage is given time for, on top of the seconds of `Retries`."""
_DAMAGED_ANSWERS = 3
"""Answers that are too short, or not what was written, after which the file counts as damaged."""

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


@dataclass(frozen=True)
class Retries:
    """How long storage may take, in seconds, transfer at 1 MB/s not counted.

    A request is tried again until `deadline`; one attempt may take `timeout`. Before the n-th retry it waits
    a random time of up to `first_delay` * 2**(n-1), never more than `longest_delay` nor half of the time that
    is left. Raises ValueError.
    """

    deadline: float = 30.0
    timeout: float = 10.0
    first_delay: float = 0.1
    longest_delay: float = 5.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}: expected a positive number of seconds, found {value}")

    def delay(self, attempts: int, left: float, jitter: random.Random) -> float:
        """Seconds to wait after so many attempts, with so many seconds left."""
        longest = self.first_delay * 2.0 ** min(attempts - 1, 60)
        return min(jitter.uniform(0, min(self.longest_delay, longest)), left / 2)


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
    """What an attempt returns, tried again while that may help.

    `nbytes` are to be transferred; a `long` attempt may take half of the deadline. Raises FileNotFoundError,
    DamageError where a file is too short or fails the storage's own checksum, and StorageError for all else;
    no error has a context, whose text could hold credentials.
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
            # subtle: what the last attempt, cut short by the deadline, met is not what is wrong
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
                f"the last: {fault.text}). Check the service, or give a longer deadline"
            )
        delay = retries.delay(attempts, left, jitter)
        _log.info("%s: attempt %d failed: %s. Again in %.2f s", where, attempts, fault.text, delay)
        await clock.sleep(delay)


def _lasting(fault: Fault, where: str) -> Exception:
    if fault.kind == "missing":
        return FileNotFoundError(f"{where}: no such file")
    if fault.kind == "damaged":
        return DamageError(f"{where}: {fault.text}. Restore the file from a copy")
    if fault.kind == "refused":
        advice = "check the credentials in storage_options or the environment"
        return StorageError(f"{where}: access was refused ({fault.text}): {advice}")
    return StorageError(f"{where}: {fault.text}. Check the URL and storage_options")
