"""The decode processes: an image split's samples as batches, in order, in bounded memory."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import shutil
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any, Self

import numpy as np

from tokenstore.errors import Parameter, SampleError, SourceError, WorkerError
from tokenstore.sources.base import ImageSplit, MaskedSplit
from tokenstore.sources.decode_task import (
    Decoders,
    DecodeTask,
    ImageFacts,
    Inputs,
    Outcomes,
    Records,
    decode_task,
)
from tokenstore.sources.fetching import fetched_ahead
from tokenstore.sources.images import Decoder, Pixels
from tokenstore.sources.masks import MaskDecoder

__all__ = [
    "DecodePool",
    "DecodeTask",
    "DecodedBatch",
    "EndableContext",
    "ImageFacts",
    "Inputs",
    "decode_in_order",
    "decode_tasks",
    "interrupts_held",
]

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
        self._slots: _Slots | None = None
        self._is_closed = False
        if workers < 1:
            return
        self._slots = _Slots(_slot_count(workers), self.task_samples, self._decoders)
        self._context = EndableContext()
        self._began = self._context.RawValue("b", 0)
        self._processes = ProcessPoolExecutor(
            workers,
            mp_context=self._context,
            initializer=_begin_work,
            initargs=(self._slots.names, self.task_samples, self._decoders, self._began),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.close(at_once=error is not None)

    def close(self, *, at_once: bool = False) -> None:
        """End the processes, `at_once` or when they have done what they began."""
        if self._slots is None:
            return
        slots, self._slots, self._is_closed = self._slots, None, True
        if at_once:
            self._context.terminate()
        self._processes.shutdown(wait=True, cancel_futures=True)
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
        if self._slots is None:
            records: Records = np.empty(self.task_samples, self._decoders.dtype)
            for task in tasks:
                self._check(task)
                outcomes = decode_task(task, self._decoders, records)
                yield _batch(task, records[: task.stop - task.start], outcomes)
            return
        yield from self._decode_in_processes(fetched_ahead(iter(tasks)), self._slots)

    def _decode_in_processes(self, tasks: Iterator[DecodeTask], slots: _Slots) -> Iterator[DecodedBatch]:
        running: deque[tuple[DecodeTask, int, Future[Outcomes]]] = deque()
        task = next(tasks, None)
        try:
            while task is not None or running:
                while task is not None and (slot := slots.take(wait=not running)) is not None:
                    self._check(task)
                    running.append((task, slot, self._submit(task, slot)))
                    task = next(tasks, None)
                done, slot, future = running[0]
                yield _batch(done, slots[slot][: done.stop - done.start], future.result())
                running.popleft()
                slots.give_back(slot)
        except BrokenProcessPool as error:
            raise self._died(running[0][0] if running else task) from error
        finally:
            for _, slot, future in running:
                slots.give_back_after(future, slot)

    def _submit(self, task: DecodeTask, slot: int) -> Future[Outcomes]:
        with interrupts_held():  # a process starts with a task
            return self._processes.submit(_work, task, slot)

    def _check(self, task: DecodeTask) -> None:
        if task.stop - task.start > self.task_samples:
            raise SourceError(
                f"samples {task.start} to {task.stop - 1}: expected at most {self.task_samples} samples a "
                "task, for which shared memory has room"
            )

    def _died(self, task: DecodeTask | None) -> SourceError:
        where = "a decode process died"
        if task is not None:
            where = f"{where} at samples {task.start} to {task.stop - 1}"
        if self._began.value:
            return WorkerError(
                f"{where}: killed, or out of memory (use fewer workers or a smaller max_pixels)"
            )
        return SourceError(
            f"{where}, as it began: killed, out of memory (use fewer workers), or, in a script, begun where "
            'everything that converts does not stand under `if __name__ == "__main__":`'
        )


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


class EndableContext(SpawnContext):
    """A way to start processes that remembers them, so that they can be ended while they start."""

    def __init__(self) -> None:
        super().__init__()
        self._started: list[SpawnProcess] = []

    def Process(self, *args: Any, **options: Any) -> SpawnProcess:  # type: ignore[override]  # noqa: N802
        """Return a new process."""
        process = SpawnProcess(*args, **options)
        self._started.append(process)
        return process

    def terminate(self) -> None:
        """End all processes at once."""
        for process in self._started:
            if process.pid is not None:
                process.terminate()


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Hold back Ctrl-C meanwhile: processes that are started inherit that, and leave it to their parent."""
    if not hasattr(signal, "pthread_sigmask"):  # as on Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Slots:
    """The shared memory that decode processes fill with records, one slot for each task."""

    def __init__(self, count: int, samples: int, decoders: Decoders) -> None:
        self._samples, self._dtype = samples, decoders.dtype
        nbytes = samples * self._dtype.itemsize
        self._memory = [SharedMemory(create=True, size=nbytes) for _ in range(count)]
        self._free = queue.SimpleQueue[int]()
        for slot in range(count):
            self._free.put(slot)
        self.names = [memory.name for memory in self._memory]

    def __getitem__(self, slot: int) -> Records:
        """Return the records of a slot; raise BrokenProcessPool if another thread has closed the pool."""
        memory = self._memory[slot].buf
        if memory is None:
            raise BrokenProcessPool("the pool was closed")
        # subtle: `np.ndarray(..., buffer=memory)` would not stop `close` from taking the memory away
        return np.frombuffer(memory, self._dtype, self._samples)

    def take(self, *, wait: bool) -> int | None:
        """Take a free slot; if there is none, `wait` for one or return None."""
        try:
            return self._free.get(block=wait)
        except queue.Empty:
            return None

    def give_back(self, slot: int) -> None:
        """Make a slot free again."""
        self._free.put(slot)

    def give_back_after(self, future: Future[Any], slot: int) -> None:
        """Make a slot free when the process that writes to it has ended its task."""
        future.add_done_callback(lambda _: self.give_back(slot))

    def close(self) -> None:
        """Free the memory."""
        for memory in self._memory:
            memory.unlink()
            try:
                memory.close()
            except BufferError:  # a caller still uses the last batch; the memory is freed with the batch
                memory._buf = memory._mmap = None  # type: ignore[attr-defined]


_slots: list[SharedMemory] = []
_samples: int
_decoders: Decoders


def _begin_work(names: list[str], samples: int, decoders: Decoders, began: Any) -> None:
    """Set up a decode process, which leaves Ctrl-C to its parent and ends when its parent does."""
    global _samples, _decoders
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    _slots.extend(SharedMemory(name) for name in names)
    _samples, _decoders = samples, decoders
    began.value = 1


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


def _work(task: DecodeTask, slot: int) -> Outcomes:
    records: Records = np.ndarray(_samples, _decoders.dtype, buffer=_slots[slot].buf)
    return decode_task(task, _decoders, records)
