"""The processes that decode tasks, each with an executor of its own, and the shared memory that they fill.

A task stays with its process. So a process fetches the images of its next tasks from remote storage while it
decodes one.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np

from tokenstore.sources.decode_task import Decoders, DecodeTask, Outcomes, Records, decode_task
from tokenstore.sources.fetching import TaskFetcher

__all__ = ["Assigned", "DecodeProcesses", "EndableContext", "Slots", "interrupts_held"]


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


class Slots:
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


@dataclass(frozen=True)
class Assigned:
    """A task that a process has."""

    task: DecodeTask
    process: int
    number: int
    """The number by which the process knows the task, if it fetches the images ahead."""
    begun: Future[None] | None
    """The order to fetch the images ahead, if there was one."""


class DecodeProcesses:
    """The decode processes of one pool; several threads may give them tasks.

    A process starts with its first task. Methods raise BrokenProcessPool where a process has died.
    """

    def __init__(self, count: int, slots: Slots, samples: int, decoders: Decoders) -> None:
        self._context = EndableContext()
        self._began = self._context.RawValue("b", 0)
        arguments = (slots.names, samples, decoders, self._began)
        self._executors = [
            ProcessPoolExecutor(1, self._context, initializer=_begin_work, initargs=arguments)
            for _ in range(count)
        ]
        self._lock = threading.Lock()
        self._tasks = [0] * count
        """The tasks that each process has."""
        self._number = 0

    def __len__(self) -> int:
        return len(self._executors)

    @property
    def have_begun(self) -> bool:
        """True if any process has begun its work."""
        return bool(self._began.value)

    def assign(self, task: DecodeTask) -> Assigned:
        """Give a task to the process with the fewest, which fetches the images of a remote one ahead."""
        with self._lock:
            process = min(range(len(self._tasks)), key=self._tasks.__getitem__)
            self._tasks[process] += 1
            self._number += 1
            number = self._number
        begun = self._submit(process, _fetch, number, task) if task.is_remote else None
        return Assigned(task, process, number, begun)

    def decode(self, assigned: Assigned, slot: int) -> Future[Outcomes]:
        """Have an assigned task decoded into a slot."""
        if assigned.begun is None:
            future = self._submit(assigned.process, _work, assigned.task, slot)
        else:
            future = self._submit(assigned.process, _work_on_fetched, assigned.number, slot)
        future.add_done_callback(lambda _: self._done(assigned))
        return future

    def drop(self, assigned: Assigned) -> None:
        """Forget an assigned task that is not to be decoded."""
        self._done(assigned)
        if assigned.begun is not None:
            with contextlib.suppress(BrokenProcessPool):  # which has forgotten all tasks
                self._submit(assigned.process, _drop, assigned.number)

    def close(self, *, at_once: bool) -> None:
        """End the processes, `at_once` or when they have done what they began."""
        if at_once:
            self._context.terminate()
        for executor in self._executors:
            executor.shutdown(wait=True, cancel_futures=True)

    def _submit(self, process: int, function: Any, *arguments: Any) -> Future[Any]:
        try:
            with interrupts_held():  # a process starts with a task
                return self._executors[process].submit(function, *arguments)
        except BrokenProcessPool:
            raise
        except RuntimeError as error:
            raise BrokenProcessPool("the pool was closed") from error

    def _done(self, assigned: Assigned) -> None:
        with self._lock:
            self._tasks[assigned.process] -= 1


_slots: list[SharedMemory] = []
_samples: int
_decoders: Decoders
_fetcher: TaskFetcher


def _begin_work(names: list[str], samples: int, decoders: Decoders, began: Any) -> None:
    """Set up a decode process, which leaves Ctrl-C to its parent and ends when its parent does."""
    global _samples, _decoders, _fetcher
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    _slots.extend(SharedMemory(name) for name in names)
    _samples, _decoders, _fetcher = samples, decoders, TaskFetcher()
    began.value = 1


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


def _fetch(number: int, task: DecodeTask) -> None:
    """Begin to fetch the images of a task that is decoded later."""
    _fetcher.begin(number, task)


def _drop(number: int) -> None:
    """Forget a task that is not decoded."""
    _fetcher.drop(number)


def _work_on_fetched(number: int, slot: int) -> Outcomes:
    return _work(_fetcher.take(number), slot)


def _work(task: DecodeTask, slot: int) -> Outcomes:
    records: Records = np.ndarray(_samples, _decoders.dtype, buffer=_slots[slot].buf)
    return decode_task(task, _decoders, records)
