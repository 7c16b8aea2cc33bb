"""Where a store's files are: a folder, a zip file, or any fsspec URL."""

from __future__ import annotations

import contextlib
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.zip import ZipFileSystem

from tokenstore.errors import StoreError
from tokenstore.files import move_file, write_file
from tokenstore.storage.remote import Range, Remote, Retries
from tokenstore.storage.remote.zipped import LOCAL_HEADER, ZippedRemote, damage_reported, open_remote

STAGING = ".partial"
"""The folder of an unfinished store that holds what only its conversion needs."""

_BLOCK_NBYTES = 2**22
SCRATCH = f"{STAGING}/scratch"
"""The file that is being written."""


class Storage:
    """Files by their path relative to a root. Local folders and zip files are read without fsspec.

    What is remote raises StorageError where it does not answer in time or refuses; `retries` says how long
    it may take.
    """

    def __init__(
        self,
        url: str | os.PathLike[str],
        storage_options: Mapping[str, Any] | None = None,
        retries: Retries | None = None,
    ) -> None:
        self._true_url = os.fspath(url)
        self.storage_options = dict(storage_options or {})
        self.retries = retries
        self.url = self._true_url
        """Fit to be shown: without a remote URL's user, password and query."""
        self._remote: Remote | ZippedRemote | None = None
        self.root: Path | None = None
        path = self._true_url.removeprefix("file://")
        if "://" in path or "::" in path:
            self._remote = open_remote(path, storage_options, retries)
            self.url = self._remote.url
            self._maps_files = False
        else:
            self.root = Path(path).expanduser().absolute()
            self._open_local(self.root)

    def _open_local(self, root: Path) -> None:
        self._pid = os.getpid()
        self._zip: zipfile.ZipFile | None = None
        self._prefix = ""
        if root.suffix == ".zip" and root.is_file():
            with damage_reported(self.url):
                self._zip = zipfile.ZipFile(root)
                self._local_fs = ZipFileSystem(str(root), skip_instance_cache=True)
        else:
            self._local_fs, self._prefix = LocalFileSystem(), str(root)
        members = [] if self._zip is None else self._zip.infolist()
        self._maps_files = all(member.compress_type == zipfile.ZIP_STORED for member in members)

    @property
    def is_local_folder(self) -> bool:
        return self.root is not None and self._zip is None

    @property
    def is_remote(self) -> bool:
        """Whether the files are behind a URL, not in a local folder or zip file."""
        return self._remote is not None

    @property
    def maps_files(self) -> bool:
        """Whether every file's bytes can be mapped from this machine's disk."""
        return self._maps_files

    @property
    def _fs(self) -> Any:
        """The local file system; a new one in a forked process, which would share a zip file's position."""
        if self.root is not None and self._pid != os.getpid():
            self._open_local(self.root)
        return self._local_fs

    def __getstate__(self) -> dict[str, Any]:
        return {
            "url": self._true_url,
            "storage_options": self.storage_options,
            "retries": self.retries,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["url"], state["storage_options"], state["retries"])  # type: ignore[misc]

    def __str__(self) -> str:
        return self.url

    def __repr__(self) -> str:
        return f"Storage({self.url!r})"

    def reopened(self) -> Storage:
        """The same place, seen as it is now: a zip file may have come to be there."""
        return Storage(self._true_url, self.storage_options, self.retries)

    def below(self, folder: str) -> Storage:
        """The storage of a folder, with the same options."""
        base, mark, query = self._true_url.partition("?") if self.is_remote else (self._true_url, "", "")
        return Storage(f"{base.rstrip('/')}/{folder}{mark}{query}", self.storage_options, self.retries)

    def _key(self, path: str) -> str:
        return f"{self._prefix}/{path}" if self._prefix and path else self._prefix or path

    def region(self, path: str) -> tuple[str, int, int] | None:
        """(local file, offset, size) where the file's bytes lie on this machine's disk, else None.

        Raises FileNotFoundError, or DamageError where a zip file contradicts itself.
        """
        if self.root is None:
            return None
        if self._zip is None:
            file = f"{self._prefix}/{path}"
            return file, 0, os.stat(file).st_size  # noqa: PTH116 (pathlib costs more than the call)
        try:
            member = self._zip.getinfo(path)
        except KeyError as error:
            raise FileNotFoundError(f"{self.url}: no member {path}") from error
        if member.compress_type != zipfile.ZIP_STORED:
            return None
        with damage_reported(self.url), self.root.open("rb") as file_:
            file_.seek(member.header_offset)
            name_nbytes, extra_nbytes = LOCAL_HEADER.unpack(file_.read(LOCAL_HEADER.size))
            offset = member.header_offset + LOCAL_HEADER.size + name_nbytes + extra_nbytes
            if offset + member.file_size > os.fstat(file_.fileno()).st_size:
                raise zipfile.BadZipFile(f"{path} reaches beyond the end of the file")
        return str(self.root), offset, member.file_size

    def read(self, path: str) -> bytes:
        """A whole file. Raises FileNotFoundError, or DamageError where it lies in a damaged zip file."""
        if self._remote is not None:
            return self._remote.read(path)
        if self.is_local_folder and self.root is not None:
            return (self.root / path).read_bytes()
        with self._damage_reported():
            data: bytes = self._fs.cat_file(self._key(path))
        return data

    def read_range(self, path: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of a file. Raises like `read`; DamageError where a remote file is shorter."""
        if self._remote is not None:
            return self._remote.read_range(path, start, stop)
        with self._damage_reported():
            data: bytes = self._fs.cat_file(self._key(path), start=start, end=stop)
        return data

    def read_ranges(self, requests: Sequence[Range], concurrency: int = 16) -> list[bytes]:
        """Bytes of many (path, start, stop), remote ones `concurrency` at a time."""
        if self._remote is not None:
            return self._remote.read_ranges(requests, concurrency)
        return [self.read_range(*request) for request in requests]

    def blocks(self, path: str) -> Iterator[bytes]:
        """A whole file, a few megabytes at a time. Raises like `read`."""
        if self._remote is not None:
            size = self._remote.size(path)
            for start in range(0, size, _BLOCK_NBYTES):
                yield self._remote.read_range(path, start, min(start + _BLOCK_NBYTES, size))
            return
        with self._damage_reported(), self._fs.open(self._key(path), "rb") as file:
            while block := file.read(_BLOCK_NBYTES):
                yield block

    def _damage_reported(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self._zip is None else damage_reported(self.url)

    def size(self, path: str) -> int:
        """Bytes of a file. Raises FileNotFoundError."""
        if self._remote is not None:
            return self._remote.size(path)
        return int(self._fs.size(self._key(path)))

    def exists(self, path: str = "") -> bool:
        """Whether there is a file or a folder; on a web server, whether it is served."""
        if self._remote is not None:
            return self._remote.exists(path)
        return bool(self._fs.exists(self._key(path)))

    def files(self) -> Iterator[str]:
        """Paths of all files below the root, sorted. A plain web server cannot tell: StorageError."""
        if self._remote is not None:
            yield from self._remote.files()
            return
        prefix = self._prefix.strip("/")
        for key in sorted(self._fs.find(self._prefix)):
            yield key.strip("/")[len(prefix) :].lstrip("/")

    def write(self, path: str, data: bytes) -> None:
        """Write a file so that it is seen whole or not at all, also after a crash."""
        if self.root is None or not self.is_local_folder:
            self._writable().write(path, data)
            return
        target = self.root / path
        scratch = self.root / SCRATCH
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch.parent.mkdir(parents=True, exist_ok=True)
        write_file(target, data, temporary=scratch)

    def move_into_place(self, finished: Path, path: str) -> None:
        """Make a file that was written beside the store one of its files, whole or not at all."""
        if self.root is None or not self.is_local_folder:
            self._writable().put(finished, path)
            finished.unlink()
            return
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        move_file(finished, target)

    def remove(self, path: str) -> None:
        """Remove a file or a folder with all it holds; nothing happens where there is none."""
        if self.is_local_folder and self.root is not None:
            target = self.root / path
            if target.is_dir():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)
        else:
            self._writable().remove(path)

    def _writable(self) -> Remote:
        if not isinstance(self._remote, Remote):
            raise StoreError(f"{self}: a zip file can only be written to a local path; leave out .zip")
        return self._remote


def working_storage(target: Storage) -> Storage:
    """Where a store is written: beside the target if that is to be a local zip file, else in place."""
    if target.root is not None and target.url.endswith(".zip"):
        return Storage(f"{target.root}{STAGING}")
    return target
