"""An epoch's positions, cut into global steps and each rank's part of them."""

from __future__ import annotations

from dataclasses import dataclass

from tokenstore.loading.sampling.order import MOST_SAMPLES, whole_number

__all__ = ["Steps"]


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

    Positions from the epoch's start are counted on from `samples`: take them modulo `samples`.
    Raises ValueError for batch_size or world_size below 1, samples or consumed below 0, more consumed than
    samples, or both drop_last and pad.
    """

    samples: int
    batch_size: int
    world_size: int = 1
    drop_last: bool = False
    pad: bool = False
    consumed: int = 0

    def __post_init__(self) -> None:
        whole_number("samples", self.samples, 0, MOST_SAMPLES)
        whole_number("batch_size", self.batch_size, 1)
        whole_number("world_size", self.world_size, 1)
        whole_number("consumed", self.consumed, 0, self.samples)
        if self.drop_last and self.pad:
            raise ValueError("drop_last, pad: expected one at most, found both; leave out the other")

    def __len__(self) -> int:
        whole, rest = divmod(self.samples - self.consumed, self._step_size)
        return whole + (rest > 0 and not self.drop_last)

    def span(self, step: int, rank: int) -> tuple[int, int]:
        """Return the positions [start, stop) of a rank in a step, to be taken modulo `samples`.

        Raises IndexError for a step or rank out of range.
        """
        if not 0 <= rank < self.world_size:
            raise IndexError(f"rank: expected one of {self.world_size}, counted from 0, found {rank}")
        start, stop = self._step_span(step)
        size = stop - start
        return start + rank * size // self.world_size, start + (rank + 1) * size // self.world_size

    def consumed_after(self, step: int) -> int:
        """Return how many positions of the epoch a step and all before it take. Raises IndexError."""
        return min(self._step_span(step)[1], self.samples)

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
