"""Writing a local file whole or not at all.

A file is written under a temporary name in the same file system, flushed to the disk, and renamed to its own
name. So a reader sees the old bytes or the new ones, never a part, also after a crash or a power cut. A new
file has the permissions that the user's umask gives.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

from tokenstore.errors import Parameter, StorageError
from tokenstore.locks import try_lock

__all__ = [
    "FULL",
    "append_file",
    "create_file",
    "exchange",
    "full_disk_named",
    "move_file",
    "rename",
    "resumable",
    "sync_files",
    "sync_names",
    "system_error",
    "whole_file",
    "write_file",
]

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""The errors of a disk without room: full, a quota that is used up, a file too large for its file system."""

_NO_EXCHANGE = frozenset({errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM})
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2

_MANY_FILES = 256
"""The files from which flushing the whole file system takes less time than flushing each."""
_MANY_FOLDERS = 256
"""The folders from which flushing the whole file system takes less time than flushing each."""


@contextlib.contextmanager
def whole_file(
    path: str | os.PathLike[str],
    *,
    temporary: str | os.PathLike[str] | None = None,
    sync: bool = True,
    sync_name: bool = True,
    nbytes: int | None = None,
) -> Iterator[IO[bytes]]:
    """Open a binary file for writing that gets the name `path` when the block ends without an exception.

    Until then its name is `temporary`, a path in the same file system, by default `path` with the suffix
    `.partial`, or on a file system without locks a name of its own that ends in it. After an exception the
    temporary file is removed, and what was at `path` stays. With `sync=False` nothing is flushed to the disk:
    quicker, but a power cut can leave wrong bytes at `path`. With `sync_name=False` the bytes are flushed,
    but until `sync_names` a power cut can lose the whole file.
    `nbytes` is the size of the file, where it is known, for the error of a full disk.

    Raises StorageError where the disk is full, or another process is writing the file under the default
    temporary name, and OSError where the file cannot be written otherwise.
    """
    target = Path(path)
    if temporary is None:
        opened, scratch = _locked_scratch(target)
    else:
        scratch = Path(temporary)
        opened = scratch.open("w+b")
    with full_disk_named(target, nbytes), opened as file:
        try:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
            if os.name == "nt":  # which renames and removes no open file
                file.close()
            scratch.replace(target)  # subtle: while the file is locked, so that its name is still this one's
        except BaseException:
            with contextlib.suppress(OSError):
                if os.name == "nt":
                    file.close()
                scratch.unlink(missing_ok=True)
            raise
    if sync and sync_name:
        with full_disk_named(target, nbytes):
            _sync_folder(target.parent)


def _locked_scratch(target: Path) -> tuple[IO[bytes], Path]:
    """Open an empty temporary file for `target`, and return it with its path.

    It is locked. On a file system without locks, no other writer has its name. Raises StorageError where
    another process, or another thread, has locked it.
    """
    scratch = target.with_name(f"{target.name}.partial")
    while True:
        is_new = not scratch.exists()
        try:
            file = scratch.open("x+b" if is_new else "r+b")
        except (FileNotFoundError, FileExistsError):  # another writer removed or made it in between
            if scratch.is_symlink() or not scratch.parent.exists():
                raise
            continue
        try:
            is_locked = try_lock(file.fileno()) if os.name == "posix" else True
            if is_locked is None:
                file.close()
                if is_new:
                    scratch.unlink(missing_ok=True)
                scratch = target.with_name(f"{target.name}.{os.urandom(8).hex()}.partial")
                return scratch.open("x+b"), scratch
            if not is_locked:
                raise StorageError(
                    f"{target}: another process is writing this file; wait for its end, or name another"
                )
            # subtle: the writer before may have renamed or removed the file after it was opened here
            with contextlib.suppress(FileNotFoundError):
                if os.name != "posix" or os.path.samestat(os.fstat(file.fileno()), scratch.stat()):
                    file.truncate()
                    return file, scratch
        except BaseException:
            file.close()
            raise
        file.close()


def write_file(
    path: str | os.PathLike[str],
    data: bytes | memoryview,
    *,
    temporary: str | os.PathLike[str] | None = None,
    sync: bool = True,
    sync_name: bool = True,
) -> None:
    """Write a file with the bytes `data`, whole or not at all; `whole_file` describes the options.

    Raises what `whole_file` raises.
    """
    with whole_file(path, temporary=temporary, sync=sync, sync_name=sync_name, nbytes=len(data)) as file:
        file.write(data)


def append_file(path: str | os.PathLike[str], start: int, data: bytes) -> None:
    """Make `data` the bytes of a file from byte `start` on, and flush it to the disk.

    A crash leaves the first `start` bytes as they are, and any part of `data`. Raises StorageError for a full
    disk, and OSError where the file cannot be written otherwise.
    """
    target = Path(path)
    with full_disk_named(target, len(data)):
        is_new = not target.exists()
        if is_new:
            target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("x+b" if is_new else "r+b") as file:
            file.seek(start)
            file.write(data)
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            _sync_folder(target.parent)


def sync_files(root: str | os.PathLike[str], paths: Sequence[str]) -> None:
    """Flush to the disk the bytes of files at `paths` below a folder; of many, all of the file system's.

    Raises StorageError for a full disk, and OSError where the disk fails otherwise.
    """
    with full_disk_named(root):
        if len(paths) > _MANY_FILES and _sync_file_system(root):
            return
        for path in paths:
            with Path(root, path).open("r+b") as file:
                os.fsync(file.fileno())


def sync_names(root: str | os.PathLike[str], paths: Iterable[str]) -> None:
    """Flush to the disk the names of files at `paths` below a folder, and of the folders they are in.

    Raises StorageError for a full disk, and OSError where the disk fails otherwise.
    """
    folders: set[str] = {""}
    with full_disk_named(root):
        for path in paths:
            folder = path.rpartition("/")[0]
            while folder not in folders:
                folders.add(folder)
                folder = folder.rpartition("/")[0]
            if len(folders) > _MANY_FOLDERS and _sync_file_system(root):
                return
        for folder in sorted(folders, reverse=True):
            _sync_folder(Path(root, folder))


def _sync_file_system(folder: str | os.PathLike[str]) -> bool:
    """Flush all of a folder's file system at once; return False where the system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    import ctypes

    try:
        syncfs = ctypes.CDLL(None, use_errno=True).syncfs
    except AttributeError:
        return False
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if syncfs(descriptor):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), os.fspath(folder))
    finally:
        os.close(descriptor)
    return True


def create_file(path: str | os.PathLike[str], data: bytes, *, temporary: str | os.PathLike[str]) -> None:
    """Write a file with the bytes `data`, whole or not at all, unless one with other bytes exists.

    `temporary` is a path in the same file system. Raises FileExistsError for an existing file, and what
    `whole_file` raises.
    """
    target, scratch = Path(path), Path(temporary)
    try:
        with full_disk_named(target, len(data)), scratch.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(scratch, target)
        except FileExistsError:
            if target.read_bytes() != data:
                raise
        except OSError:  # a file system without hard links
            if target.exists():
                raise
            scratch.replace(target)
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
    with full_disk_named(target, len(data)):
        _sync_folder(target.parent)


@contextlib.contextmanager
def full_disk_named(path: str | os.PathLike[str], nbytes: int | None = None) -> Iterator[None]:
    """Turn the error of a full disk in the block into one that names the file and the bytes it needs.

    Raises StorageError, which is an OSError, for a disk without room (FULL), as `system_error` finds it.
    """
    try:
        yield
    except (OSError, RuntimeError) as raised:
        error = system_error(raised)
        if error is None or error.errno not in FULL or isinstance(error, StorageError):
            raise
        needed = "" if nbytes is None else f"{nbytes:,} bytes are needed, "
        with contextlib.suppress(OSError):
            folder = next(folder for folder in Path(path).absolute().parents if folder.exists())
            needed += f"{shutil.disk_usage(folder).free:,} bytes are free"
        full = StorageError(f"{os.fspath(path)}: {os.strerror(error.errno)}: {needed}".rstrip(": "))
        full.errno = error.errno
        raise full from error


def resumable(error: BaseException | None) -> StorageError | None:
    """Return a full disk's error with how to go on; None for other errors, or if it says so already."""
    if not isinstance(error, OSError) or error.errno not in FULL:
        return None
    if isinstance(error, StorageError) and error.parameters:
        return None
    again = Parameter("resume", True)
    full = StorageError(f"{error}. Make room, and go on with {again}", parameters=[again])
    full.errno = error.errno
    return full


def system_error(error: BaseException) -> OSError | None:
    """Return the error of the system that an exception is, or that a RuntimeError of torch.save hides."""
    hidden = error.__context__ if isinstance(error, RuntimeError) else error
    return hidden if isinstance(hidden, OSError) else None


def exchange(path: str | os.PathLike[str], other: str | os.PathLike[str]) -> bool:
    """Exchange what is at two paths of one file system, at once; return False where the system cannot.

    Raises OSError where nothing is at one of them, or one cannot be renamed.
    """
    if not sys.platform.startswith("linux"):
        return False
    import ctypes

    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return False
    if rename(_AT_FDCWD, os.fsencode(path), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
        code = ctypes.get_errno()
        if code in _NO_EXCHANGE:
            return False
        raise OSError(code, os.strerror(code), str(path), None, str(other))
    for folder in {Path(path).parent, Path(other).parent}:
        _sync_folder(folder)
    return True


def rename(path: str | os.PathLike[str], new: str | os.PathLike[str]) -> None:
    """Give a file or folder another name in the same file system, on the disk too.

    Raises OSError where it cannot be renamed.
    """
    Path(path).rename(new)
    for folder in {Path(path).parent, Path(new).parent}:
        _sync_folder(folder)


def move_file(finished: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Give a finished file the name `path`, in the same file system, after flushing it to the disk.

    Raises OSError where the file cannot be moved.
    """
    finished, target = Path(finished), Path(path)
    with full_disk_named(target, finished.stat().st_size):
        with finished.open("r+b") as file:
            os.fsync(file.fileno())
        finished.replace(target)
        _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    """Flush a folder's list of names to the disk, where the system can."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
