"""Executors: what runs the ranges of a conversion, here in this process with its decode processes.

Other executors run the same plan elsewhere (`Executor`). Every file of the store is the same to the byte,
whichever ran.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Protocol, Self

from typing_extensions import override

from tokenstore.conversion.plans import RangePlan, RangeWorker
from tokenstore.conversion.ranges import MOST_DEATHS, RangeRequest, SampleRange, Segment
from tokenstore.errors import WorkerError

__all__ = ["Executor", "LocalExecutor", "encode_surely"]

_log = logging.getLogger(__name__)


class Executor(Protocol):
    """A way to run the ranges of a conversion: on this machine, or on many."""

    def segments(self, plan: RangePlan, starts: Mapping[str, int]) -> Generator[Segment, None, None]:
        """Encode the samples of each split in `starts` from there on, and yield their segments in order.

        The order is that of `starts`, and within a split that of its samples. Segments begin at the multiple
        of the plan's batch size at or before a start, and follow each other without a gap, cut anywhere at
        such multiples (`RangePlan.ranges`). An executor may encode a range again after a failure, and
        has a bounded number of segments that were not taken yet. It ends its work when it is closed.

        Raises what ends the conversion, which can be resumed, by another executor too.
        """


class LocalExecutor(Executor):
    """The executor that decodes in processes of this machine, and encodes in this process.

    `workers` are the decode processes; by default as many as the conversion's options say.
    """

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers

    @override
    def segments(self, plan: RangePlan, starts: Mapping[str, int]) -> Generator[Segment, None, None]:
        workers = plan.options.workers if self.workers is None else self.workers
        batches = max(1, plan.range_samples // plan.batch_size)
        ranges = plan.ranges(starts, batches)
        ahead: deque[SampleRange] = deque()
        while True:
            try:
                yield from _stream(plan, ranges, ahead, workers)
                return
            except WorkerError as error:
                _log.warning("%s; its samples and those after them are tried one process at a time", error)
            with _AloneEncoder(plan) as alone:
                while ahead:
                    yield from encode_surely(plan, ahead[0], alone.encode)
                    ahead.popleft()


def _stream(
    plan: RangePlan, ranges: Iterator[SampleRange], ahead: deque[SampleRange], workers: int
) -> Iterator[Segment]:
    """Yield the segments of ranges; `ahead` are those that were begun and not yielded."""
    with plan.begin(workers) as encoder:

        def requests() -> Iterator[RangeRequest]:
            for samples in ranges:
                ahead.append(samples)
                yield plan.request(samples, encoder.task_samples)

        for segment in encoder.segments(requests()):
            yield segment
            ahead.popleft()


class _AloneEncoder:
    """An encoder of one decode process, which has nothing else to do; a new one after each death."""

    def __init__(self, plan: RangePlan) -> None:
        self._plan = plan
        self._encoder: RangeWorker | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        encoder, self._encoder = self._encoder, None
        if encoder is not None:
            encoder.close(at_once=True)

    def encode(self, samples: SampleRange) -> Segment:
        """Encode a range; raise WorkerError if the process dies."""
        if self._encoder is None:
            self._encoder = self._plan.begin(1)
        try:
            return self._encoder.encode(self._plan.request(samples, self._encoder.task_samples))
        except WorkerError:
            self.__exit__()
            raise


def encode_surely(
    plan: RangePlan, samples: SampleRange, attempt: Callable[[SampleRange], Segment]
) -> Iterator[Segment]:
    """Encode a range that a worker died of, and yield its segments in order.

    `attempt` encodes a range, and raises WorkerError if its worker dies. A range whose workers die
    `MOST_DEATHS` times is cut in two, and its parts again, at the first death, down to the sample, which
    counts as bad when `MOST_DEATHS` workers have died of it. Raises WorkerError where the plan does not count
    any sample as bad.
    """
    yield from _bisected(plan, samples, attempt, MOST_DEATHS)


def _bisected(
    plan: RangePlan, samples: SampleRange, attempt: Callable[[SampleRange], Segment], deaths: int
) -> Iterator[Segment]:
    last = WorkerError(f"{samples}: not tried")
    for _ in range(deaths):
        try:
            segment = attempt(samples)
        except WorkerError as error:
            _log.warning("%s: %s", samples, error)
            last = error
        else:
            yield segment
            return
    if len(samples) == 1:
        yield plan.lost(samples, last)
        return
    for half in samples.halves():
        yield from _bisected(plan, half, attempt, MOST_DEATHS if len(half) == 1 else 1)
