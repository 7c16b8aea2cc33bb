"""An epoch's positions, cut into global steps and each rank's part of them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tokenstore.loading.sampling.order import MOST_SAMPLES, whole_number

__all__ = ["Steps", "spread_lanes"]


@functools.cache
def spread_lanes(lanes: int) -> npt.NDArray[np.int64]:
    """Return the numbers of lanes (lanes,) sorted by their remainders by 2, then by 4, by 8 and so on.

    So the lanes of a rank stand together where the number of ranks is a power of 2, and any stretch of
    neighbours is spread over all of them.
    """
    numbers = np.arange(lanes)
    powers = range(max(1, lanes).bit_length(), 0, -1)
    spread = np.lexsort((numbers, *(numbers % 2**power for power in powers)))
    spread.flags.writeable = False
    return spread


@dataclass(frozen=True)
class Steps:
    """The global steps of an epoch of `samples` positions, or of its rest after `consumed` of them.

    A step takes the next batch_size * world_size positions. Of a step's n positions, rank r of W takes the
    part [r * n // W, (r + 1) * n // W). All ranks have equally many steps, and a sample in each. Where too
    few positions are left for the last step:

    - `drop_last` leaves the step out.
    - `pad` fills the step up with positions from the epoch's start.
    - By default each position is taken once, and the last step is smaller. Where the last step would have
      fewer than W positions, the step before gives it the missing ones. Where that cannot be (fewer than W
      positions are left in all, or batch_size is 1), the last step is filled up to W with positions from the
      epoch's start.

    With `lane_keys`, an order's method, a rank takes as many positions of a step, but those of lanes of its
    own. Position p is in lane p modulo `lanes`; where W divides the number of lanes, a rank takes the
    positions p with p modulo W equal to r. Else W / g ranks share the lanes with one remainder by g, the
    greatest common divisor: each takes an equal part of the positions, sorted by their lanes' keys. In a
    mixture, whose sources have lanes, `lanes` is 1, and all ranks share.

    Positions from the epoch's start are counted on from `samples`: take them modulo `samples`.
    Raises ValueError for batch_size, world_size or lanes below 1, samples or consumed below 0, more consumed
    than samples, or both drop_last and pad.
    """

    samples: int
    batch_size: int
    world_size: int = 1
    drop_last: bool = False
    pad: bool = False
    consumed: int = 0
    lanes: int = 1
    lane_keys: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.int64]] | None = None

    def __post_init__(self) -> None:
        whole_number("samples", self.samples, 0, MOST_SAMPLES)
        whole_number("batch_size", self.batch_size, 1)
        whole_number("world_size", self.world_size, 1)
        whole_number("consumed", self.consumed, 0, self.samples)
        whole_number("lanes", self.lanes, 1)
        if self.drop_last and self.pad:
            raise ValueError("drop_last, pad: expected one at most, found both; leave out the other")

    def __len__(self) -> int:
        whole, rest = divmod(self.samples - self.consumed, self._step_size)
        return whole + (rest > 0 and not self.drop_last)

    def span(self, step: int, rank: int) -> tuple[int, int]:
        """Return the positions [start, stop) of a rank in a step without lanes, to be taken modulo `samples`.

        Raises IndexError for a step or rank out of range.
        """
        start, stop = self._step_span(step)
        first, last = self._part(stop - start, rank, self.world_size)
        return start + first, start + last

    def positions(self, step: int, rank: int) -> npt.NDArray[np.int64]:
        """Return a rank's positions (n,) in a step, ascending, to be taken modulo `samples`.

        Raises IndexError for a step or rank out of range.
        """
        if self.lane_keys is None:
            return np.arange(*self.span(step, rank))
        start, stop = self._step_span(step)
        groups = math.gcd(self.world_size, self.lanes)
        own = np.arange(start + (rank - start) % groups, stop, groups)
        first, last = self._part(len(own), rank // groups, self.world_size // groups)
        if last - first == len(own):
            return own
        by_lane = np.argsort(self.lane_keys(own % self.samples), kind="stable")
        return np.sort(own[by_lane[first:last]])

    def consumed_after(self, step: int) -> int:
        """Return how many positions of the epoch a step and all before it take. Raises IndexError."""
        return min(self._step_span(step)[1], self.samples)

    def _part(self, size: int, number: int, parts: int) -> tuple[int, int]:
        """Return the bounds of one of equal parts of `size` positions; raises IndexError for no such part."""
        if not 0 <= number < parts:
            raise IndexError(f"rank: expected one of {self.world_size}, counted from 0, found {number}")
        return number * size // parts, (number + 1) * size // parts

    @property
    def _step_size(self) -> int:
        return self.batch_size * self.world_size

    def _step_span(self, step: int) -> tuple[int, int]:
        steps = len(self)
        if not 0 <= step < steps:
            raise IndexError(f"step: expected one of {steps}, counted from 0, found {step}")
        start = self.consumed + step * self._step_size
        stop = start + self._step_size
        if self.pad or self.drop_last:
            return start, stop
        rest = self.samples - self.consumed - (steps - 1) * self._step_size
        missing = max(0, self.world_size - rest)
        from_step_before = missing if steps > 1 and self.batch_size > 1 else 0
        if step == steps - 1:
            return start - from_step_before, start + rest + missing - from_step_before
        return start, stop - (from_step_before if step == steps - 2 else 0)
