"""A bounded cache of bytes on the local disk, shared by any number of processes and threads."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import operator
import os
import re
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import numpy.typing as npt

from tokenstore.errors import StoreError
from tokenstore.storage import private
from tokenstore.storage.claims import Claims

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

Policy = Literal["lru", "pin"]
_T = TypeVar("_T")

PATIENCE = 1.0
"""The seconds that a put waits for the other processes that write to the same folder."""
PAUSE = 10.0
"""The seconds without puts after one that failed, so that a full disk or a stuck lock costs little."""

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(?:([KMGTP])(i?))?B", re.IGNORECASE)
_FOLDER = re.compile(r"[0-9a-f]{2}")
_NAME = re.compile(r"[0-9a-f]{32}")
_TEMPORARY = re.compile(r"[0-9a-f]{32}\.[0-9a-f]{16}\.tmp")
_UNKNOWN = -1
_log = logging.getLogger(__name__)


def parse_size(text: str) -> int:
    """Return the bytes of a size such as "10GB", "1.5 TB" or "10GiB".

    Raises ValueError for any other text.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f'{text!r} is not a size: give bytes as an integer, or "512MB", "1.5 TB", "10GiB"')
    number, prefix, binary = match.groups()
    base = 1024 if binary else 1000
    return int(Decimal(number) * base ** " KMGTP".index((prefix or " ").upper()))


class Cache:
    """A folder with entries of bytes by key, which together never take more than a limit.

    `limit` is in bytes, or a size such as "10GB", "512MB", "1.5 TB", "10GiB"; `largest` is the largest
    entry, in bytes, that will be put. A key is a relative path such as "store/train/tokens/0/8-16".

    With policy "lru" the least recently used entries are evicted to make room. With "pin" the first entries
    stay, and a full cache takes no more. When data larger than the limit is read in the same order again and
    again, "lru" never has the entry that is asked for, and "pin" has it limit/size of the time.

    The entries and the one being written together stay within the limit at every moment, kill -9 included.
    Sizes are those of the files' contents. Caches of different limits may share a folder: each applies its
    own limit when it puts, so "lru" with the smaller one empties the folder down to that. Without file locks
    (Windows) the limit is exact for the threads of one process, and only rough for several processes.

    A cache may fail without harm. An entry that cannot be written, because of a full disk, a vanished folder,
    missing permissions or a lock that another process does not release, is left out; the cache logs this
    once, and tries again after a pause. Nothing is synced to disk. After a power cut an entry may have wrong
    bytes, so check the bytes that `get` returns, and `discard` a wrong entry.

    Whoever can write entries could choose what is read. So new folders are the user's alone, no link is
    followed below `folder`, and an entry that another user owns or can write (root aside) is no entry.

    Raises ValueError for an impossible limit or an unknown policy, StoreError if the folder cannot be created
    or written, or if another user owns it or can write it.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        limit: int | str = "10GB",
        policy: Policy = "lru",
        *,
        largest: int = 0,
    ) -> None:
        self.folder = Path(folder).expanduser().absolute()
        self.limit = parse_size(limit) if isinstance(limit, str) else operator.index(limit)
        self.policy = policy
        self.largest = largest
        self._entries = str(self.folder / "entries")
        self._total_file = str(self.folder / "total")
        self._thread_lock = threading.Lock()
        self._claims = Claims(str(self.folder / "claims"))
        self._recounted = self._warned = self._is_full = False
        self._paused_until = 0.0
        if policy not in get_args(Policy):
            raise ValueError(f'{policy!r} is not a policy of the cache: "lru" or "pin" was expected')
        if self.limit < max(1, largest):
            raise ValueError(
                f"a cache of {limit!r} is too small: an entry takes {max(1, largest)} bytes; raise it"
            )
        try:
            private.make_folder(self.folder)
            private.check_folder(self.folder, ("entries", "total", "claims"))
            Path(self._entries).mkdir(0o700, exist_ok=True)
            tempfile.TemporaryFile(dir=self._entries).close()
            disk = shutil.disk_usage(self.folder).total
        except OSError as error:
            raise StoreError(
                f"{self.folder}: a folder that can be written was expected for the cache: {error}. "
                "Choose another folder, or read without a cache"
            ) from error
        if 0 < disk < self.limit:  # some network file systems do not tell, and say 0
            raise ValueError(
                f"the limit of the cache in {self.folder} is {limit!r}, but a disk of {disk} bytes holds "
                "it: lower the limit, or choose another folder"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), largest=self.largest), (self.folder, self.limit, self.policy)

    def get(self, key: str, room: npt.NDArray[np.uint8] | None = None) -> npt.NDArray[np.uint8] | None:
        """Return an entry's bytes, (nbytes,) uint8, or None if it is not in the cache; takes no lock.

        With `room`, (nbytes,) uint8, fill it with the entry's first bytes and return it, or return None if
        the entry is shorter.
        """
        path = self._path(key)
        try:
            room = _read(path, room)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn(error)
            return None
        if self.policy == "lru":
            with contextlib.suppress(OSError):  # just evicted, or another user's
                _mark_used(path)
        return room

    def put(self, key: str, data: bytes | memoryview | npt.NDArray[np.uint8]) -> None:
        """Write an entry, in the place of one with the same key, unless there is no room for it."""
        path, view = self._path(key), np.frombuffer(data, np.uint8).data
        if time.monotonic() < self._paused_until:
            return
        try:
            with self._locked() as file:
                total = self._total(file)
                _write_total(file, _UNKNOWN)
                total -= _remove(path)
                if view.nbytes <= self.limit:
                    total = self._make_room(total, view.nbytes)
                    self._is_full = total + view.nbytes > self.limit
                    if not self._is_full:
                        _write(path, view)
                        total += view.nbytes
                _write_total(file, total)
        except OSError as error:
            self._paused_until = time.monotonic() + PAUSE
            self._warn(error)

    def fetch_once(
        self,
        items: list[_T],
        key: Callable[[_T], str],
        cached: Callable[[list[_T]], list[_T]],
        fetch: Callable[[list[_T]], object],
    ) -> None:
        """Obtain items that are not in the cache; of processes that want one at a time, one fetches it.

        `cached` takes what it finds in the cache, and returns the other items; `fetch` fetches items and puts
        them under `key`. A process waits for what another is fetching, but not for one that makes no progress
        for some seconds, nor where entries cannot be put. Raises what the functions raise.
        """
        if self._is_full or time.monotonic() < self._paused_until:
            fetch(items)
        else:
            self._claims.share(items, key, cached, fetch)

    def discard(self, key: str) -> None:
        """Remove an entry if it exists."""
        path = self._path(key)
        try:
            with self._locked() as file:
                total = self._total(file)
                _write_total(file, _UNKNOWN)
                _write_total(file, total - _remove(path))
        except OSError as error:
            self._warn(error)
            with contextlib.suppress(OSError):  # without the lock: a total too large is put right later
                _remove(path)

    @property
    def nbytes(self) -> int:
        """The bytes of all entries; 0 if the folder cannot be read."""
        try:
            with self._locked() as file:
                total = self._total(file)
                _write_total(file, total)
                return total
        except OSError as error:
            self._warn(error)
            return 0

    def _path(self, key: str) -> str:
        if any(segment in ("", ".", "..") for segment in key.split("/")):
            raise ValueError(
                f"{key!r} is not a key of the cache: a relative path without empty, '.' or '..' segments, "
                'such as "store/train/tokens/0/8-16", was expected'
            )
        # a digest, because file systems differ in the names that they allow and take for the same
        name = hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
        return f"{self._entries}/{name[:2]}/{name}"

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        """Open the file with the total and lock it against other processes and threads."""
        file = os.open(self._total_file, os.O_RDWR | os.O_CREAT | private.NO_LINK, 0o600)
        try:
            private.own_nbytes(file, self._total_file)
            if fcntl is None:
                with self._thread_lock:
                    yield file
                return
            self._wait_for_lock(file)
            try:
                yield file
            finally:
                # subtle: closing does not unlock while a child, forked just now, has the file open too.
                fcntl.flock(file, fcntl.LOCK_UN)
        finally:
            os.close(file)

    def _wait_for_lock(self, file: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"another process or thread has held the lock for {PATIENCE:g} s")
            time.sleep(0.0005)

    def _total(self, file: int) -> int:
        """Return the bytes of all entries: the written total, or a count if a change was cut short."""
        os.lseek(file, 0, os.SEEK_SET)
        try:
            total = int(os.read(file, 32))
        except ValueError:
            total = _UNKNOWN
        return total if total >= 0 else sum(nbytes for _, _, nbytes in self._scan())

    def _make_room(self, total: int, nbytes: int) -> int:
        """Evict the least recently used entries until `nbytes` more fit ("lru"); return the new total."""
        if total + nbytes <= self.limit or (self.policy == "pin" and self._recounted):
            return total
        self._recounted = True
        entries = self._scan()
        total = sum(size for _, _, size in entries)
        if self.policy == "lru":
            goal = min(self.limit - nbytes, self.limit * 9 // 10)  # a scan is dear: make room for many
            for _, path, size in sorted(entries):
                if total <= goal:
                    break
                Path(path).unlink(missing_ok=True)
                total -= size
        return total

    def _scan(self) -> list[tuple[int, str, int]]:
        """Return all entries: (last use in ns since the epoch, path, bytes).

        Removes the temporary files of killed processes.
        """
        entries = []
        Path(self._entries).mkdir(0o700, exist_ok=True)  # somebody may have emptied the cache by hand
        folders = os.listdir(self._entries)  # noqa: PTH208 (pathlib's glob hides errors)
        for folder in filter(_FOLDER.fullmatch, folders):
            with os.scandir(f"{self._entries}/{folder}") as files:
                for file in files:
                    if _TEMPORARY.fullmatch(file.name):
                        Path(file.path).unlink(missing_ok=True)
                    elif _NAME.fullmatch(file.name):
                        with contextlib.suppress(FileNotFoundError):
                            status = file.stat(follow_symlinks=False)
                            entries.append((status.st_mtime_ns, file.path, status.st_size))
        return entries

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            advice = "look at the folder's permissions and free space, and at stopped processes that use it"
            _log.warning("%s: the cache cannot be used: %s; reading goes on, %s", self.folder, error, advice)


def _mark_used(path: str) -> None:
    """Set a file's modification time to now, finer than the kernel's own clock ticks."""
    now = time.time_ns()
    os.utime(path, ns=(now, now))


def _write_total(file: int, total: int) -> None:
    os.lseek(file, 0, os.SEEK_SET)
    os.write(file, b"%20d\n" % total)


def _remove(path: str) -> int:
    """Remove a file and return the bytes that this frees."""
    try:
        nbytes = Path(path).lstat().st_size
    except FileNotFoundError:
        return 0
    Path(path).unlink(missing_ok=True)
    return nbytes


def _read(path: str, room: npt.NDArray[np.uint8] | None) -> npt.NDArray[np.uint8] | None:
    """Return a file's bytes, in `room` if given, or None if the file is shorter than `room`."""
    # subtle: each call of the system lets other threads take the GIL, so there are as few as can be
    file = os.open(path, os.O_RDONLY | private.NO_LINK)
    try:
        nbytes = private.own_nbytes(file, path)
        if room is None:
            room = np.empty(nbytes, np.uint8)
        rest = room.data
        while rest and (read := _read_some(file, rest)):
            rest = rest[read:]
    finally:
        os.close(file)
    return None if rest else room


def _read_some(file: int, room: memoryview) -> int:
    if hasattr(os, "readv"):
        return os.readv(file, [room])
    data = os.read(file, len(room))  # Windows
    room[: len(data)] = data
    return len(data)


def _write(path: str, data: memoryview) -> None:
    """Write an entry's file, whole or not at all, readable by its user alone, and mark it as used now."""
    temporary = f"{path}.{secrets.token_hex(8)}.tmp"
    Path(temporary).parent.mkdir(0o700, parents=True, exist_ok=True)
    try:
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | private.NO_LINK, 0o600)
        try:
            while data:
                data = data[os.write(file, data) :]
        finally:
            os.close(file)
        _mark_used(temporary)
        os.replace(temporary, path)  # noqa: PTH105
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink(missing_ok=True)
        raise
