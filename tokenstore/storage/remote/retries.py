"""The time that a remote place is given to answer."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tokenstore.errors import ArgumentError

if TYPE_CHECKING:
    import random

__all__ = ["DEADLINE_VARIABLE", "Retries"]

DEADLINE_VARIABLE = "TOKENSTORE_STORAGE_DEADLINE"
"""The environment variable for the deadline where none is given: processes of workers see it too."""


def _usual_deadline() -> float:
    """Return the deadline that the environment asks for, or 30; raise ArgumentError for another text."""
    text = os.environ.get(DEADLINE_VARIABLE, "")
    try:
        seconds = float(text or 30)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        raise ArgumentError(f"{DEADLINE_VARIABLE}: expected a positive number of seconds, found {text!r:.80}")
    return seconds


@dataclass(frozen=True)
class Retries:
    """The time that remote storage is given, in seconds; transfer at 1 MB/s comes on top.

    A request is tried again until `deadline`; one attempt may take `timeout`. Before the n-th retry it waits
    a random time of up to `first_delay` * 2**(n-1), never more than `longest_delay` nor half of the time that
    is left. The default of `deadline` is the environment's TOKENSTORE_STORAGE_DEADLINE, or 30.

    Raises ValueError for a time that is not positive and finite: an ArgumentError for the environment's.
    """

    deadline: float = field(default_factory=_usual_deadline)
    timeout: float = 10.0
    first_delay: float = 0.1
    longest_delay: float = 5.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}: expected a positive number of seconds, found {value}")

    def delay(self, attempts: int, left: float, jitter: random.Random) -> float:
        """Return the seconds to wait after so many attempts, with so many seconds left."""
        longest = self.first_delay * 2.0 ** min(attempts - 1, 60)
        return min(jitter.uniform(0, min(self.longest_delay, longest)), left / 2)
