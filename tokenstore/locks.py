"""The lock of those who write to one local place."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import weakref
from pathlib import Path

__all__ = ["LOCK_INSIDE", "PlaceLock", "lock_file", "try_lock"]

LOCK_INSIDE = ".lock"
"""The lock file inside a folder whose parent folder takes no files."""
_NOT_WRITABLE = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL})

_locked_descriptors: set[int] = set()
"""The descriptors of the locks that this process holds."""


def lock_file(path: str | os.PathLike[str]) -> Path:
    """Return the lock file beside a place, which exists while a PlaceLock is held, or after a kill -9."""
    place = Path(os.path.realpath(path))
    return place.with_name(f".{place.name}.lock")


class PlaceLock:
    """A lock that one holder has at a time, of all processes and threads that write the same local place.

    The place at `path`, of the kind `what`, need not exist; symlinks to it share its lock. The lock file is
    `.{name}.lock` beside it, or `.lock` inside it where the parent folder cannot be written. The system takes
    the lock from a process that ends in whatever way. On a file system without locks, a lock file that exists
    is the lock itself, and outlives a killed process.

    Raises BlockingIOError where another holder has the lock, and OSError where no lock file can be made.
    """

    def __init__(self, path: str | os.PathLike[str], what: str = "place") -> None:
        place = Path(os.path.realpath(path))
        place.parent.mkdir(parents=True, exist_ok=True)
        beside = lock_file(place)
        try:
            descriptor, created = _locked(beside, what)
        except OSError as error:
            if error.errno not in _NOT_WRITABLE or not place.is_dir() or os.path.lexists(beside):
                raise
            beside = place / LOCK_INSIDE
            descriptor, created = _locked(beside, what)
        _locked_descriptors.add(descriptor)
        self.release = weakref.finalize(self, _release, descriptor, beside, created, os.getpid())
        """The function that gives the lock back and removes its file; a second call does nothing."""

    def __enter__(self) -> PlaceLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _locked(path: Path, what: str) -> tuple[int, bool]:
    """Return the descriptor of a lock file that is locked, and True if the file was created for it."""
    if sys.platform == "win32":
        flags = os.O_NOINHERIT
    else:
        flags = os.O_CLOEXEC | os.O_NOFOLLOW
    while True:
        created = True
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | flags, 0o666)
        except FileExistsError:
            created = False
            try:
                descriptor = os.open(path, os.O_RDWR | flags)
            except FileNotFoundError:
                continue
            except PermissionError:  # another user's; a lock needs no more than reading
                descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | flags)
        try:
            lock = try_lock(descriptor)
            if not (created if lock is None else lock):
                text = f"another process is writing this {what}"
                if lock is None:
                    text += f". If none is, remove {path}: this file system has no locks"
                raise BlockingIOError(text)
            # subtle: the holder before may have removed the file after it was opened here
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.lstat()):
                    return descriptor, created
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def try_lock(descriptor: int) -> bool | None:
    """Lock a file; return False if another has locked it, None if the file system has no locks."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        raise
    return True


def _release(descriptor: int, path: Path, created: bool, pid: int) -> None:
    if pid != os.getpid():  # a fork, which has closed its copy
        return
    _locked_descriptors.discard(descriptor)
    # a file with bytes in it that was there before is somebody's, whatever its name
    try:
        if created or os.fstat(descriptor).st_size == 0:
            with contextlib.suppress(OSError):  # such as that of Windows, where an open file stays
                path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _close_copies() -> None:
    """Close this fork's copies of its parent's locks, which would hold them after the parent's end."""
    for descriptor in _locked_descriptors:
        os.close(descriptor)
    _locked_descriptors.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_copies)
