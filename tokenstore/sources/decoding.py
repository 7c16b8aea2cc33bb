"""The decode processes: an image split's samples as batches, in order, in bounded memory."""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeAlias

import numpy as np

from tokenstore.errors import Parameter, SampleError, SourceError, WorkerError
from tokenstore.sources.base import ImageSplit, MaskedSplit
from tokenstore.sources.decode_processes import Assigned, DecodeProcesses, Slots
from tokenstore.sources.decode_task import (
    Decoders,
    DecodeTask,
    ImageFacts,
    Inputs,
    Outcomes,
    Records,
    decode_task,
)
from tokenstore.sources.fetching import MOST_NBYTES, TASKS_AHEAD, fetched_ahead
from tokenstore.sources.images import Decoder, Pixels
from tokenstore.sources.masks import MaskDecoder

__all__ = [
    "DecodePool",
    "DecodeTask",
    "DecodedBatch",
    "ImageFacts",
    "Inputs",
    "decode_in_order",
    "decode_tasks",
]

_Running: TypeAlias = tuple[Assigned, int, Future[Outcomes]]
"""A task that a process decodes, the slot that it fills, and what becomes of it."""
TASK_SAMPLES = 32
"""The number of samples of one task of a decode process, if shared memory has room for them."""


@dataclass(frozen=True)
class DecodedBatch:
    """The decoded samples from `start` on.

    `inputs` and `masks` are only valid until the next batch is requested.
    """

    start: int
    inputs: Inputs
    """The inputs (n, *shape) that the decoder made; the input of a bad sample is undefined."""
    masks: Pixels | None
    """The label maps (n, H, W), if they were requested."""
    outcomes: list[ImageFacts | SampleError]
    """The facts of each image, or the error of a bad sample."""


def decode_tasks(
    split: ImageSplit, start: int, stop: int, *, masks: bool = False, samples: int | None = None
) -> Iterator[DecodeTask]:
    """Cut samples [start, stop) of a split into tasks of `samples`, by default `TASK_SAMPLES`.

    With `masks` the tasks request label maps too; raises TypeError for a split that has none.
    """
    samples = samples or TASK_SAMPLES
    for first in range(start, stop, samples):
        last = min(first + samples, stop)
        label_maps = None
        if masks:
            if not isinstance(split, MaskedSplit):
                raise TypeError(f"expected a split with label maps, found {type(split).__name__}")
            label_maps = split.masks(first, last)
        yield DecodeTask(first, last, split.request(first, last), label_maps)


def decode_in_order(
    split: ImageSplit,
    start: int,
    stop: int,
    decoder: Decoder,
    workers: int,
    masks: MaskDecoder | None = None,
) -> Iterator[DecodedBatch]:
    """Decode samples [start, stop) in `workers` processes, or in this process if `workers` is 0.

    With `masks` the split is a MaskedSplit, and a sample without a valid label map is bad.

    Raises what `DecodePool` and `decode_tasks` raise.
    """
    with DecodePool(decoder, workers, masks) as pool:
        tasks = decode_tasks(split, start, stop, masks=masks is not None, samples=pool.task_samples)
        yield from pool.decode(tasks)


class DecodePool:
    """The processes that decode images, used as a context manager.

    Without workers, images are decoded in the calling thread. The processes start with the first tasks and go
    on until the pool is closed; a pool of which a process died decodes nothing more. If the block ends with
    an exception, the processes are ended at once, also those that are still starting.

    Raises SourceError where shared memory is too small.
    """

    def __init__(self, decoder: Decoder, workers: int, masks: MaskDecoder | None = None) -> None:
        self._decoders = Decoders(decoder, masks)
        self.task_samples = _task_samples(workers, self._decoders.dtype.itemsize)
        """The largest number of samples of a task."""
        self._slots: Slots | None = None
        self._is_closed = False
        if workers < 1:
            return
        self._slots = Slots(_slot_count(workers), self.task_samples, self._decoders)
        self._processes = DecodeProcesses(workers, self._slots, self.task_samples, self._decoders)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.close(at_once=error is not None)

    def close(self, *, at_once: bool = False) -> None:
        """End the processes, `at_once` or when they have done what they began."""
        if self._slots is None:
            return
        slots, self._slots, self._is_closed = self._slots, None, True
        self._processes.close(at_once=at_once)
        slots.close()

    def decode(self, tasks: Iterable[DecodeTask]) -> Iterator[DecodedBatch]:
        """Decode tasks, and yield a batch for each, in their order.

        A few tasks for each process are taken ahead. Several threads may decode at a time.

        Raises WorkerError if a process dies or another thread closes the pool, and SourceError for a task of
        more samples than fit, for a request that gives another number of images, and where no process can
        start.
        """
        if self._is_closed:
            raise WorkerError("the decode processes were ended")
        tasks = fetched_ahead(iter(tasks), alone=self._slots is None)
        if self._slots is None:
            records: Records = np.empty(self.task_samples, self._decoders.dtype)
            for task in tasks:
                self._check(task)
                outcomes = decode_task(task, self._decoders, records)
                yield _batch(task, records[: task.stop - task.start], outcomes)
            return
        yield from self._decode_in_processes(tasks, self._slots)

    def _decode_in_processes(self, tasks: Iterator[DecodeTask], slots: Slots) -> Iterator[DecodedBatch]:
        ahead = deque[Assigned]()
        running = deque[_Running]()
        try:
            while True:
                self._assign(tasks, ahead)
                while self._may_run(ahead, running) and (slot := slots.take(wait=not running)) is not None:
                    running.append((ahead[0], slot, self._processes.decode(ahead[0], slot)))
                    ahead.popleft()
                    self._assign(tasks, ahead)
                if not running:
                    return
                assigned, slot, future = running[0]
                if assigned.begun is not None:
                    assigned.begun.result()
                task = assigned.task
                yield _batch(task, slots[slot][: task.stop - task.start], future.result())
                running.popleft()
                slots.give_back(slot)
        except BrokenProcessPool as error:
            raise self._died([each for each, _, future in running if _is_lost(future)], ahead) from error
        finally:
            for _, slot, future in running:
                slots.give_back_after(future, slot)
            for assigned in ahead:
                self._processes.drop(assigned)

    def _assign(self, tasks: Iterator[DecodeTask], ahead: deque[Assigned]) -> None:
        """Give processes tasks ahead of their slots: one, or as many remote ones as they fetch at a time."""
        while not ahead or (ahead[0].task.is_remote and len(ahead) < TASKS_AHEAD * len(self._processes)):
            task = next(tasks, None)
            if task is None:
                return
            self._check(task)
            ahead.append(self._processes.assign(task))

    def _may_run(self, ahead: deque[Assigned], running: deque[_Running]) -> bool:
        """Return True if there is a next task, and memory has room for its images beside those of `running`.

        Each process may have a task of any size.
        """
        if not ahead or len(running) < len(self._processes):
            return bool(ahead)
        nbytes = ahead[0].task.fetched_nbytes + sum(each.task.fetched_nbytes for each, _, _ in running)
        return nbytes <= MOST_NBYTES * len(self._processes)

    def _check(self, task: DecodeTask) -> None:
        if task.stop - task.start > self.task_samples:
            raise SourceError(
                f"samples {task.start} to {task.stop - 1}: expected at most {self.task_samples} samples a "
                "task, for which shared memory has room"
            )

    def _died(self, lost: Sequence[Assigned], ahead: Sequence[Assigned]) -> SourceError:
        where = "a decode process died"
        for assigned in [*lost, *ahead][:1]:
            where = f"{where} at samples {assigned.task.start} to {assigned.task.stop - 1}"
        if self._processes.have_begun:
            return WorkerError(
                f"{where}: killed, or out of memory (use fewer workers or a smaller max_pixels)"
            )
        return SourceError(
            f"{where}, as it began: killed, out of memory (use fewer workers), or, in a script, begun where "
            'everything that converts does not stand under `if __name__ == "__main__":`'
        )


def _is_lost(future: Future[Outcomes]) -> bool:
    """Return True if the process that had a task has died."""
    return future.done() and not future.cancelled() and isinstance(future.exception(), BrokenProcessPool)


def _batch(task: DecodeTask, records: Records, outcomes: Outcomes) -> DecodedBatch:
    if len(outcomes) != len(records):
        raise SourceError(
            f"samples {task.start} to {task.stop - 1}: expected {len(records)} images of the source's "
            f"request, found {len(outcomes)}"
        )
    masks = records["mask"] if "mask" in (records.dtype.names or ()) else None
    return DecodedBatch(task.start, records["input"], masks, outcomes)


def _slot_count(workers: int) -> int:
    """Return the number of slots that keep all workers busy while batches wait to be used."""
    return 2 * workers + 2


def _task_samples(workers: int, nbytes: int) -> int:
    """Return the samples of one task, for which all slots take at most half of the free shared memory."""
    shared = Path("/dev/shm")
    if workers < 1 or not shared.is_dir():
        return TASK_SAMPLES
    samples = shutil.disk_usage(shared).free // 2 // (_slot_count(workers) * nbytes)
    if samples < 1:
        no_workers = Parameter("workers", 0)
        raise SourceError(
            f"{shared} has too little room to pass images of {nbytes:,} bytes between {workers} "
            f"processes. Make it larger, or decode in one process with {no_workers}",
            parameters=[no_workers],
        )
    return min(TASK_SAMPLES, samples)
