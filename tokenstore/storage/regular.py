"""Regular files of this machine, opened without waiting and read without moving a shared position.

Anything may lie in a store that somebody else made: a named pipe would block its reader for ever, and
`/dev/zero` has no end. So a file is opened without blocking, and refused unless it is a regular one.
"""

from __future__ import annotations

import errno
import os
import stat
import threading

from typing_extensions import override

from tokenstore.errors import DamageError
from tokenstore.storage.streams import SeekableStream

__all__ = ["PositionedFile", "open_regular", "read_at", "read_into", "version_of"]

_FLAGS = os.O_RDONLY
for _name in ("O_BINARY", "O_CLOEXEC", "O_NONBLOCK", "O_NOCTTY"):
    _FLAGS |= getattr(os, _name, 0)
_MISSING = frozenset({errno.ENOTDIR, errno.ENAMETOOLONG})
"""The errors, besides ENOENT, that say that no file can be at a path."""
_IRREGULAR = {errno.ELOOP: "a circle of links", errno.ENXIO: "a socket or device", errno.ENODEV: "a device"}
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_HAS_PREADV = hasattr(os, "preadv")
_position_lock = threading.Lock()


def open_regular(path: str | bytes, where: str) -> tuple[int, int]:
    """Open a file for reading and return its descriptor, which the caller closes, and its size in bytes.

    Links to regular files are followed. `where` names the file in messages. Raises FileNotFoundError for a
    missing file, DamageError for what is no regular file.
    """
    try:
        descriptor = os.open(path, _FLAGS)
    except OSError as error:
        if error.errno in _MISSING:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from error
        if error.errno in _IRREGULAR:
            raise _irregular(where, _IRREGULAR[error.errno]) from error
        raise
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        kinds = (kind for is_kind, kind in _KINDS if is_kind(status.st_mode))
        raise _irregular(where, next(kinds, "something else"))
    return descriptor, status.st_size


def version_of(status: os.stat_result) -> tuple[int, ...]:
    """Return what tells a file from another in its place, and from itself after a change."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def read_at(descriptor: int, start: int, stop: int) -> bytes:
    """Return the bytes [start, stop) of an open file, fewer if it ends before."""
    parts = []
    while start < stop and (part := _pread(descriptor, stop - start, start)):
        parts.append(part)
        start += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def read_into(descriptor: int, start: int, room: memoryview) -> int:
    """Fill bytes (nbytes,) with those of an open file from `start` on; return how many there were."""
    done = 0
    while done < len(room):
        if _HAS_PREADV:
            count = os.preadv(descriptor, [room[done:] if done else room], start + done)
        else:  # Windows
            data = _pread(descriptor, min(len(room) - done, 2**20), start + done)
            count = len(data)
            room[done : done + count] = data
        if not count:
            break
        done += count
    return done


class PositionedFile(SeekableStream):
    """An open file's bytes from `offset` on, `size` or all of them, with a position of its own.

    No other user of the descriptor moves the position. The descriptor stays open when this object is closed.
    """

    def __init__(self, descriptor: int, offset: int = 0, size: int | None = None) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._offset = offset
        self._size = size

    @override
    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        room = memoryview(buffer)
        if self._size is not None:
            room = room[: max(0, self._size - self.position)]
        count = read_into(self._descriptor, self._offset + self.position, room)
        self.position += count
        return count

    @override
    def nbytes(self) -> int:
        if self._size is not None:
            return self._size
        return os.fstat(self._descriptor).st_size - self._offset


def _irregular(where: str, kind: str) -> DamageError:
    return DamageError(f"{where}: expected a regular file, found {kind}. Restore the file from a copy")


def _pread(descriptor: int, nbytes: int, start: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(descriptor, nbytes, start)
    with _position_lock:  # Windows
        os.lseek(descriptor, start, os.SEEK_SET)
        return os.read(descriptor, nbytes)
