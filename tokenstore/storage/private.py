"""Files that one user alone, and root, owns and can write: whoever else could would choose what is read."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from tokenstore.errors import StoreError

__all__ = ["NO_LINK", "check_folder", "make_folder", "own_nbytes"]

NO_LINK = 0
"""The flags of `os.open` for a file in a private folder, which is no link and nothing that blocks."""
for _name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"):
    NO_LINK |= getattr(os, _name, 0)


def make_folder(folder: Path) -> None:
    """Create a folder, and those above it that are missing, for this user alone; raises OSError."""
    for path in (*reversed(folder.parents), folder):
        if not path.is_dir():
            path.mkdir(0o700, exist_ok=True)


def check_folder(folder: Path, names: Iterable[str]) -> None:
    """Raise StoreError unless a folder, and what has one of `names` in it, is this user's alone.

    The folder may be a link that this user or root made; what is in it may not. A name may be missing.
    """
    for path in (folder, *(folder / name for name in names if os.path.lexists(folder / name))):
        link = path.lstat()
        is_link = stat.S_ISLNK(link.st_mode)
        status = path.stat() if is_link and path == folder else link
        if is_own(status) and (link is status or link.st_uid in _owners()):
            continue
        rights = f"owner {status.st_uid}, mode {stat.S_IMODE(status.st_mode):04o}"
        raise StoreError(
            f"{path}: a folder or file that no other user owns or can write was expected, found "
            f"{f'a link of owner {link.st_uid}' if is_link else rights}: others could choose what is read. "
            f"Name another folder, which need not exist yet, or make this one yours: chmod -R go-w {folder}"
        )


def own_nbytes(descriptor: int, path: str) -> int:
    """Return an open file's size in bytes; raises PermissionError unless it is a file of this user alone."""
    status = os.fstat(descriptor)
    if not (stat.S_ISREG(status.st_mode) and is_own(status)):
        raise PermissionError(errno.EPERM, "another user owns it or can write it, or it is no file", path)
    return status.st_size


def is_own(status: os.stat_result) -> bool:
    """Return True if nobody but this user and root owns or can write a file, and it is no link."""
    if not hasattr(os, "geteuid"):  # Windows
        return True
    others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return status.st_uid in _owners() and not others and not stat.S_ISLNK(status.st_mode)


def _owners() -> tuple[int, ...]:
    return (os.geteuid(), 0)
