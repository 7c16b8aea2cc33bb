"""The fetching of tasks' images ahead, by the process that hands the tasks to decode processes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import chain, islice

from tokenstore.sources.base import SharedRequest
from tokenstore.sources.decode_task import DecodeTask

__all__ = ["fetched_ahead"]

_TASKS_AHEAD = 4


def fetched_ahead(tasks: Iterator[DecodeTask]) -> Iterator[DecodeTask]:
    """Yield tasks in order, those of shared requests with their images, a few of which are fetched ahead.

    One thread fetches in the tasks' order, so that it reads each row group of a Parquet file once.
    """
    first = next(tasks, None)
    if first is None:
        return
    tasks = chain([first], tasks)
    if not isinstance(first.images, SharedRequest):
        yield from tasks
        return
    threads = ThreadPoolExecutor(1, "tokenstore-fetching")
    ahead: deque[Future[DecodeTask]] = deque()
    try:
        while True:
            ahead.extend(threads.submit(_fetched, task) for task in islice(tasks, _TASKS_AHEAD - len(ahead)))
            if not ahead:
                return
            yield ahead.popleft().result()
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def _fetched(task: DecodeTask) -> DecodeTask:
    return replace(task, images=task.images.fetch()) if isinstance(task.images, SharedRequest) else task
