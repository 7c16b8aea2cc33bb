"""The fetching of tasks' images ahead, in threads, while earlier images are decoded."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain, count, islice

from typing_extensions import override

from tokenstore.errors import SampleError
from tokenstore.sources.base import FetchedRequest, JoinableRequest, MaskRequest
from tokenstore.sources.decode_task import DecodeTask

__all__ = ["MOST_NBYTES", "TASKS_AHEAD", "TaskFetcher", "fetched_ahead", "fetched_many"]

MOST_NBYTES = 2**26
"""The bytes of images up to which the next task's are fetched too, if they take as many as the largest."""
TASKS_AHEAD = 4
"""The tasks whose images one process fetches at a time, before they are decoded."""
_MANY = 16
"""The tasks of samples here and there that are fetched at a time."""
_GROUP_NBYTES = 2**22
"""The bytes of the images of neighbouring tasks that are read together, unless one task has more."""


@dataclass(frozen=True)
class FetchedMasks(MaskRequest):
    """A request for label maps that were read already."""

    request: MaskRequest
    maps: Sequence[bytes | SampleError]

    @override
    def read(self) -> Sequence[bytes | SampleError]:
        return self.maps

    @override
    def where(self, position: int) -> str:
        return self.request.where(position)


class TaskFetcher:
    """A fetcher of the images of a few tasks, in memory that is bounded; one thread uses it.

    Tasks are fetched in the order in which they were begun, `threads` of them at a time. Where images take
    much memory, fewer tasks are fetched ahead, or none.
    """

    def __init__(self, threads: int = TASKS_AHEAD) -> None:
        self._threads = threads
        self._executor: ThreadPoolExecutor | None = None
        self._waiting: dict[int, DecodeTask] = {}
        self._running: dict[int, Future[DecodeTask]] = {}
        self._largest = 0
        """The bytes of the largest task so far."""

    def begin(self, number: int, task: DecodeTask) -> None:
        """Begin to fetch a task, by whose number it is taken; now or when there is room for it."""
        self._waiting[number] = task
        self._fill()

    def take(self, number: int) -> DecodeTask:
        """Return a task with its images, which the fetcher forgets; raise what reading them raises."""
        future = self._running.get(number)
        if future is None:
            fetched = _fetched(self._waiting.pop(number))
        else:
            try:
                fetched = future.result()
            finally:
                del self._running[number]
        images = [*fetched.images.read(), *(() if fetched.masks is None else fetched.masks.read())]
        nbytes = sum(len(image) for image in images if isinstance(image, bytes))
        self._largest = max(self._largest, nbytes)
        self._fill()
        return fetched

    def drop(self, number: int) -> None:
        """Forget a task that is not taken."""
        self._waiting.pop(number, None)
        future = self._running.pop(number, None)
        if future is not None:
            future.cancel()
        self._fill()

    def close(self) -> None:
        """Forget all tasks, without waiting for those that are being fetched."""
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)

    def _fill(self) -> None:
        while self._waiting and len(self._running) < TASKS_AHEAD:
            if self._largest * (len(self._running) + 1) > MOST_NBYTES:
                return
            if self._executor is None:
                self._executor = ThreadPoolExecutor(self._threads, "tokenstore-fetching")
            number = next(iter(self._waiting))
            self._running[number] = self._executor.submit(_fetched, self._waiting.pop(number))


def fetched_many(tasks: Iterable[DecodeTask]) -> Iterator[DecodeTask]:
    """Yield tasks of samples here and there, in order, with their images: many are fetched at a time."""
    waiting = iter(tasks)
    threads = ThreadPoolExecutor(_MANY, "tokenstore-fetching")
    running = deque[Future[DecodeTask]]()
    try:
        while True:
            for task in islice(waiting, 2 * _MANY - len(running)):
                running.append(threads.submit(_fetched, task))
            if not running:
                return
            yield running.popleft().result()
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def fetched_ahead(tasks: Iterator[DecodeTask], *, alone: bool) -> Iterator[DecodeTask]:
    """Yield tasks in order, with their images where this process is the one to fetch them.

    This process fetches shared requests: it reads each row group of a Parquet file once, and neighbours of a
    tar file together. Other remote ones are left to the decode processes, unless this process is `alone`.
    """
    first = next(tasks, None)
    if first is None:
        return
    tasks = chain([first], tasks)
    if not first.is_shared and not (alone and first.is_remote):
        yield from tasks
        return
    if isinstance(first.images, JoinableRequest):
        yield from _fetched_in_groups(tasks)
        return
    fetcher, numbers, ahead = TaskFetcher(1 if first.is_shared else TASKS_AHEAD), count(), deque[int]()
    try:
        while True:
            for task in islice(tasks, TASKS_AHEAD - len(ahead)):
                ahead.append(next(numbers))
                fetcher.begin(ahead[-1], task)
            if not ahead:
                return
            yield fetcher.take(ahead.popleft())
    finally:
        fetcher.close()


@dataclass(frozen=True)
class _Group:
    """The neighbouring tasks whose images are read together."""

    tasks: list[DecodeTask]
    nbytes: int
    """The bytes of their images."""


def _fetched_in_groups(tasks: Iterator[DecodeTask]) -> Iterator[DecodeTask]:
    """Yield tasks in order, with their images: many groups of neighbours are read at a time."""
    threads = ThreadPoolExecutor(_MANY, "tokenstore-fetching")
    running = deque[tuple[_Group, Future[list[DecodeTask]]]]()
    groups = _groups(tasks)
    group, nbytes = next(groups, None), 0
    try:
        while True:
            while group and len(running) < _MANY and not (running and nbytes + group.nbytes > MOST_NBYTES):
                running.append((group, threads.submit(_fetched_group, group)))
                nbytes += group.nbytes
                group = next(groups, None)
            if not running:
                return
            done, future = running.popleft()
            yield from future.result()
            nbytes -= done.nbytes
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def _groups(tasks: Iterator[DecodeTask]) -> Iterator[_Group]:
    """Cut tasks into groups, of which the first is one task, since decoding waits for it, and others grow."""
    group, nbytes, most = list[DecodeTask](), 0, 0
    for task in tasks:
        size = task.images.nbytes if isinstance(task.images, JoinableRequest) else _GROUP_NBYTES
        if group and nbytes + size > most:
            yield _Group(group, nbytes)
            group, nbytes, most = [], 0, min(2 * max(most, nbytes), _GROUP_NBYTES)
        group.append(task)
        nbytes += size
    if group:
        yield _Group(group, nbytes)


def _fetched_group(group: _Group) -> list[DecodeTask]:
    """Return tasks with their images instead of the requests for them."""
    requests = [task.images for task in group.tasks if isinstance(task.images, JoinableRequest)]
    if len(requests) < len(group.tasks):
        return [_fetched(task) for task in group.tasks]
    images = iter(requests[0].joined(requests[1:]).read())
    parts = [list(islice(images, task.stop - task.start)) for task in group.tasks]
    return [replace(task, images=FetchedRequest(part)) for task, part in zip(group.tasks, parts, strict=True)]


def _fetched(task: DecodeTask) -> DecodeTask:
    """Return a task with its images, and its label maps, instead of the requests for them."""
    masks = None if task.masks is None else FetchedMasks(task.masks, task.masks.read())
    return replace(task, images=FetchedRequest(task.images.read()), masks=masks)
