"""Writing a local file whole or not at all.

A file is written under a temporary name in the same file system, flushed to the disk, and renamed to its own
name. So a reader sees the old bytes or the new ones, never a part, also after a crash or a power cut. A new
file has the permissions that the user's umask gives.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

__all__ = ["move_file", "whole_file", "write_file"]


@contextlib.contextmanager
def whole_file(
    path: str | os.PathLike[str],
    *,
    temporary: str | os.PathLike[str] | None = None,
    sync: bool = True,
) -> Iterator[IO[bytes]]:
    """Open a binary file for writing that gets the name `path` when the block ends without an exception.

    Until then its name is `temporary`, a path in the same file system, by default `path` with the suffix
    `.partial`. After an exception the temporary file is removed, and what was at `path` stays. With
    `sync=False` nothing is flushed to the disk: quicker, but a power cut can leave wrong bytes at `path`.

    Raises OSError where the file cannot be written.
    """
    target = Path(path)
    scratch = target.with_name(f"{target.name}.partial") if temporary is None else Path(temporary)
    try:
        with scratch.open("w+b") as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        scratch.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
        raise
    if sync:
        _sync_folder(target.parent)


def write_file(
    path: str | os.PathLike[str],
    data: bytes | memoryview,
    *,
    temporary: str | os.PathLike[str] | None = None,
    sync: bool = True,
) -> None:
    """Write a file with the bytes `data`, whole or not at all; `whole_file` describes the options.

    Raises OSError where the file cannot be written.
    """
    with whole_file(path, temporary=temporary, sync=sync) as file:
        file.write(data)


def move_file(finished: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Give a finished file the name `path`, in the same file system, after flushing it to the disk.

    Raises OSError where the file cannot be moved.
    """
    finished, target = Path(finished), Path(path)
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
