"""A local zip file with a store's files, and what it shares with a zip file on remote storage."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import struct
import weakref
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, NoReturn

from typing_extensions import override

from tokenstore.errors import DamageError, StoreError
from tokenstore.storage.base import Storage, too_long
from tokenstore.storage.inflating import ZIP_ERRORS, inflated, is_bounded
from tokenstore.storage.local import LocalPlace
from tokenstore.storage.regular import PositionedFile, open_regular, read_at, version_of

__all__ = ["LOCAL_HEADER", "LocalZip", "ReadOnlyZip", "damage_reported", "is_member_or_folder"]

LOCAL_HEADER = struct.Struct("<26xHH")
"""The part of fixed size before a member's name, extra field and data; it ends with the lengths of both."""
_OF_DAMAGE = (None, errno.EINVAL)


@contextlib.contextmanager
def damage_reported(url: str) -> Iterator[None]:
    """Turn the exceptions that a damaged zip file causes in the block into DamageError."""
    try:
        yield
    except (*ZIP_ERRORS, OSError) as error:
        # a seek to nowhere and bzip2's damage are plain OSErrors, a refusal of the system mostly is not
        if isinstance(error, OSError) and (type(error) is not OSError or error.errno not in _OF_DAMAGE):
            raise
        raise DamageError(f"{url}: not a whole zip file: {error}. Restore it from a copy") from error


def is_member_or_folder(path: str, members: Iterable[str]) -> bool:
    """Return True if `path` is the name of a member, or of a folder with members."""
    return any(f"{name}/".startswith(f"{path}/" if path else "") for name in members)


class ReadOnlyZip(Storage):
    """A zip file with a whole store, which cannot be changed; all changes raise StoreError."""

    @override
    def folder_with(self, name: str) -> str | None:
        folders = [path.removesuffix(f"/{name}") for path in self.files() if path.endswith(f"/{name}")]
        return min(folders, key=lambda folder: (folder.count("/"), folder), default=None)

    @override
    def write(self, path: str, data: bytes) -> None:
        self._refuse()

    @override
    def create(self, path: str, data: bytes) -> None:
        self._refuse()

    @override
    def move_into_place(self, finished: Path, path: str) -> None:
        self._refuse()

    @override
    def remove(self, path: str) -> None:
        self._refuse()

    @override
    def below(self, folder: str) -> Storage:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise StoreError(f"{self}: a zip file can only be written to a local path; leave out .zip")


class LocalZip(LocalPlace, ReadOnlyZip):
    """The members of a local zip file. Raises DamageError where it is no whole zip file."""

    def __init__(self, url: str, root: Path | None = None) -> None:
        super().__init__(url, root)
        self._descriptor, _ = open_regular(str(self.root), url)
        weakref.finalize(self, os.close, self._descriptor).atexit = False
        self._open()
        members = self._opened.infolist()
        self.maps_files = all(member.compress_type == zipfile.ZIP_STORED for member in members)

    def _open(self) -> None:
        self._pid = os.getpid()
        with damage_reported(self.url):
            self._opened = zipfile.ZipFile(PositionedFile(self._descriptor))

    @property
    def _zip(self) -> zipfile.ZipFile:
        """The open zip file; a forked process has its own, since a lock may have been held at the fork.

        The bytes stay those of the file that was opened first, even if another has its name now.
        """
        if self._pid != os.getpid():
            self._open()
        return self._opened

    def _member(self, path: str) -> zipfile.ZipInfo:
        try:
            return self._zip.getinfo(path)
        except KeyError as error:
            raise FileNotFoundError(f"{self.url}: no member {path}") from error

    @override
    def version(self, path: str) -> tuple[int, ...] | None:
        return version_of(os.fstat(self._descriptor))

    @override
    def read(self, path: str, limit: int | None = None) -> bytes:
        member = self._member(path)
        if limit is not None and member.file_size > limit:
            raise too_long(f"{self.url}/{path}", limit, member.file_size)
        with damage_reported(self.url), self._content(member) as file:
            return b"".join(inflated(file, member))

    @override
    def read_range(self, path: str, start: int, stop: int) -> bytes:
        member = self._member(path)
        with damage_reported(self.url), self._content(member) as file:
            if not is_bounded(member):
                return b"".join(inflated(file, member, stop))[start:]
            file.seek(start)
            return file.read(stop - start)

    @override
    def blocks(self, path: str) -> Iterator[bytes]:
        member = self._member(path)
        with damage_reported(self.url), self._content(member) as file:
            yield from inflated(file, member)

    def _content(self, member: zipfile.ZipInfo) -> IO[bytes]:
        """Open a member: its bytes, or where zipfile inflates without bound, its compressed bytes."""
        opened = self._zip.open(member)  # which compares the header with the directory
        if is_bounded(member):
            return opened
        opened.close()
        offset = self._offset(member)
        return io.BytesIO(read_at(self._descriptor, offset, offset + member.compress_size))

    def _offset(self, member: zipfile.ZipInfo) -> int:
        """Return where a member's bytes begin. Raises BadZipFile where they do not all lie in the file."""
        start = member.header_offset + LOCAL_HEADER.size
        name_nbytes, extra_nbytes = LOCAL_HEADER.unpack(
            read_at(self._descriptor, member.header_offset, start)
        )
        offset = start + name_nbytes + extra_nbytes
        if offset + member.compress_size > os.fstat(self._descriptor).st_size:
            raise zipfile.BadZipFile(f"{member.filename} reaches beyond the end of the file")
        return int(offset)

    @override
    def open_file(self, path: str) -> tuple[int, int, int] | None:
        member = self._member(path)
        if member.compress_type != zipfile.ZIP_STORED:
            return None
        with damage_reported(self.url):
            offset = self._offset(member)
            if member.file_size != member.compress_size:
                raise zipfile.BadZipFile(f"{path} has two sizes")
        return os.dup(self._descriptor), offset, member.file_size

    @override
    def size(self, path: str) -> int:
        return self._member(path).file_size

    @override
    def exists(self, path: str = "") -> bool:
        return is_member_or_folder(path, self._zip.namelist())

    @override
    def files(self) -> list[str]:
        return sorted(
            {member.filename for member in self._zip.infolist() if not member.filename.endswith("/")}
        )
