"""The time that a remote place is given to answer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

__all__ = ["Retries"]


@dataclass(frozen=True)
class Retries:
    """The time that remote storage is given, in seconds; transfer at 1 MB/s comes on top.

    A request is tried again until `deadline`; one attempt may take `timeout`. Before the n-th retry it waits
    a random time of up to `first_delay` * 2**(n-1), never more than `longest_delay` nor half of the time that
    is left.

    Raises ValueError for a time that is not positive and finite.
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
        """Return the seconds to wait after so many attempts, with so many seconds left."""
        longest = self.first_delay * 2.0 ** min(attempts - 1, 60)
        return min(jitter.uniform(0, min(self.longest_delay, longest)), left / 2)
