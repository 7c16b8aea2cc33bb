"""Claims of processes that share a cache: each entry is fetched by one of them, and read by the others."""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from tokenstore.storage import private

if sys.platform == "linux":
    import fcntl

__all__ = ["Claims"]

PATIENCE = 20.0
"""The seconds without any progress after which a process fetches what others have claimed."""
AT_ONCE = 128
"""The most entries that a process claims at a time, so that processes share the work."""
_LONGEST_PAUSE = 0.02

_T = TypeVar("_T")

_instances: weakref.WeakSet[Claims] = weakref.WeakSet()


class Claims:
    """The claims of all processes and threads on a cache's entries, by the entries' keys.

    A claim is a lock of one byte of the file at `path`, whose place is a hash of the key; the file stays
    empty. The system takes the locks from a process that ends in whatever way. Where it has no such locks
    (other systems than Linux, some network file systems), threads of one process alone have claims.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._file: int | None = None
        self.forget()
        _instances.add(self)

    def forget(self) -> None:
        """Have no claims, in a new process: those of its parent are not its own."""
        self._lock = threading.Lock()
        self._own: set[str] = set()
        # subtle: a copy of the file that stays open here would hold the parent's locks after its end
        if self._file is not None:
            os.close(self._file)
        self._file = None
        self._has_locks = sys.platform == "linux"

    def __del__(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.close(self._file)

    def take(self, key: str) -> bool:
        """Claim a key; return False if another process or thread has."""
        with self._lock:
            if key in self._own or not self._locked(key, taken=True):
                return False
            self._own.add(key)
            return True

    def release(self, keys: Iterable[str]) -> None:
        """Give up claims that were taken."""
        with self._lock:
            for key in keys:
                self._locked(key, taken=False)
                self._own.discard(key)

    def share(
        self,
        items: Sequence[_T],
        key: Callable[[_T], str],
        cached: Callable[[list[_T]], list[_T]],
        fetch: Callable[[list[_T]], object],
    ) -> None:
        """Obtain items, each of which one process fetches at a time, and the others read from the cache.

        `cached` takes what it finds in the cache, and returns the other items; `fetch` fetches items and puts
        them into the cache. Items that another process has claimed are waited for, until none of them has
        come for `PATIENCE` seconds: then they are fetched here too. Raises what the functions raise.
        """
        waiting = list(items)
        pause, deadline = 0.001, time.monotonic() + PATIENCE
        while waiting:
            mine: list[_T] = []
            try:
                for item in waiting:
                    if len(mine) < AT_ONCE and self.take(key(item)):
                        mine.append(item)
                missing = cached(mine) if mine else []
                if missing:
                    fetch(missing)
            finally:
                self.release(map(key, mine))
            if mine:
                done = set(mine)
                waiting = [item for item in waiting if item not in done]
                pause, deadline = 0.001, time.monotonic() + PATIENCE
            elif time.monotonic() > deadline:
                fetch(waiting)
                return
            else:
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    def _locked(self, key: str, *, taken: bool) -> bool:
        """Lock or unlock a key's byte; return False if another process has locked it."""
        if sys.platform != "linux" or not self._has_locks:
            return True
        place = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") >> 2
        # struct flock: type, whence, start, length, pid
        request = struct.pack("@hhqqi4x", fcntl.F_WRLCK if taken else fcntl.F_UNLCK, os.SEEK_SET, place, 1, 0)
        try:
            file = self._open()
            try:
                fcntl.fcntl(file, fcntl.F_OFD_SETLK, request)
            except (BlockingIOError, PermissionError):
                return False
        except OSError:  # no folder, another user's file, no locks: the cache works without
            self._has_locks = False
        return True

    def _open(self) -> int:
        if self._file is None:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | private.NO_LINK, 0o600)
            try:
                private.own_nbytes(file, self._path)
            except OSError:
                os.close(file)
                raise
            self._file = file
        return self._file


def _forget_after_fork() -> None:
    for claims in _instances:
        claims.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)
