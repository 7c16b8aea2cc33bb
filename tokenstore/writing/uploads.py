"""Shards on their way to a remote place, while the next one fills."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

AT_ONCE = 3
"""The shards that are under way at a time; their samples and bytes are in memory."""
_T = TypeVar("_T")


class Uploads:
    """The shards under way, each in a thread of its own, which count in the order that they came in.

    After an error nothing more counts: every later call raises it.
    """

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._under_way: deque[Future[None]] = deque()
        self._error: BaseException | None = None

    def add(self, send: Callable[[], _T], count: Callable[[_T], None]) -> None:
        """Call `send` in a thread, and `count` with its result, once all shards before have been counted.

        Waits while `AT_ONCE` others are under way. Raises the error of a shard before.
        """
        self.wait(AT_ONCE - 1)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="tokenstore-upload")
        before = self._under_way[-1] if self._under_way else None
        self._under_way.append(self._pool.submit(_upload, send, count, before))

    def wait(self, most: int = 0) -> None:
        """Wait until at most so many shards are under way; raise the error of any that ended in one."""
        while self._under_way and (len(self._under_way) > most or self._under_way[0].done()):
            error = self._under_way[0].exception()
            self._under_way.popleft()
            self._error = self._error or error
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Wait for all that is under way; its errors were raised, or another error ends the writer."""
        if self._pool is not None:
            self._pool.shutdown()


def _upload(send: Callable[[], _T], count: Callable[[_T], None], before: Future[None] | None) -> None:
    sent = send()
    if before is not None:
        before.result()
    count(sent)
