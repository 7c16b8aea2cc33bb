"""Where a store's files are: a folder, a zip file, or any fsspec URL."""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.zip import ZipFileSystem

from tokenstore.errors import DamageError, StoreError

STAGING = ".partial"
"""The folder of an unfinished store that holds what only its conversion needs."""

_BLOCK_NBYTES = 2**22
SCRATCH = f"{STAGING}/scratch"
"""The file that is being written."""

_ZIP_LOCAL_HEADER = struct.Struct("<26xHH")
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError)
"""What reading a damaged zip file raises."""


class Storage:
    """Files by their path relative to a root. Local folders and zip files are read without fsspec."""

    def __init__(self, url: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None) -> None:
        self.url = os.fspath(url)
        self.storage_options = dict(storage_options or {})
        self._connect()

    def _connect(self) -> None:
        self._pid = os.getpid()
        self.root: Path | None = None
        self._zip: zipfile.ZipFile | None = None
        url = self.url.removeprefix("file://")
        if "://" not in url and "::" not in url:
            self.root = Path(url).expanduser().absolute()
            if self.root.suffix == ".zip" and self.root.is_file():
                with _damage_reported(self.url):
                    self._zip = zipfile.ZipFile(self.root)
                    self._fs, self._prefix = ZipFileSystem(str(self.root), skip_instance_cache=True), ""
            else:
                self._fs, self._prefix = LocalFileSystem(), str(self.root)
        else:
            try:
                self._fs, self._prefix = fsspec.core.url_to_fs(self.url, **self.storage_options)
            except (ImportError, ValueError) as error:
                raise StoreError(
                    f"{self.url}: this kind of storage cannot be used: {error} "
                    "(the extras tokenstore[s3] and tokenstore[gcs] install two of them)"
                ) from error
        members = [] if self._zip is None else self._zip.infolist()
        self._maps_files = self.root is not None and all(
            member.compress_type == zipfile.ZIP_STORED for member in members
        )

    @property
    def is_local_folder(self) -> bool:
        return self.root is not None and self._zip is None

    @property
    def maps_files(self) -> bool:
        """Whether every file's bytes can be mapped from this machine's disk."""
        return self._maps_files

    @property
    def fs(self) -> Any:
        """The fsspec file system; a new one in a forked process, whose event loop did not survive."""
        if self._pid != os.getpid():
            fsspec.AbstractFileSystem.clear_instance_cache()
            self._connect()
        return self._fs

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "storage_options": self.storage_options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["url"], state["storage_options"])  # type: ignore[misc]

    def __str__(self) -> str:
        return self.url

    def key(self, path: str) -> str:
        """A file's path in the fsspec file system."""
        return str(PurePosixPath(self._prefix, path)) if self._prefix else path

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
        with _damage_reported(self.url), self.root.open("rb") as file_:
            file_.seek(member.header_offset)
            name_nbytes, extra_nbytes = _ZIP_LOCAL_HEADER.unpack(file_.read(_ZIP_LOCAL_HEADER.size))
            offset = member.header_offset + _ZIP_LOCAL_HEADER.size + name_nbytes + extra_nbytes
            if offset + member.file_size > os.fstat(file_.fileno()).st_size:
                raise zipfile.BadZipFile(f"{path} reaches beyond the end of the file")
        return str(self.root), offset, member.file_size

    def read(self, path: str) -> bytes:
        """A whole file. Raises FileNotFoundError, or DamageError where it lies in a damaged zip file."""
        if self.is_local_folder and self.root is not None:
            return (self.root / path).read_bytes()
        with self._damage_reported():
            data: bytes = self.fs.cat_file(self.key(path))
        return data

    def read_range(self, path: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of a file. Raises like `read`."""
        with self._damage_reported():
            data: bytes = self.fs.cat_file(self.key(path), start=start, end=stop)
        return data

    def blocks(self, path: str) -> Iterator[bytes]:
        """A whole file, a few megabytes at a time. Raises like `read`."""
        with self._damage_reported(), self.fs.open(self.key(path), "rb") as file:
            while block := file.read(_BLOCK_NBYTES):
                yield block

    def _damage_reported(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self._zip is None else _damage_reported(self.url)

    def size(self, path: str) -> int:
        """Bytes of a file. Raises FileNotFoundError."""
        return int(self.fs.size(self.key(path)))

    def exists(self, path: str = "") -> bool:
        self.fs.invalidate_cache()
        return bool(self.fs.exists(self.key(path) if path else self._prefix))

    def files(self) -> Iterator[str]:
        """Paths of all files below the root, sorted."""
        self.fs.invalidate_cache()
        prefix = self._prefix.strip("/")
        for key in sorted(self.fs.find(self._prefix)):
            yield key.strip("/")[len(prefix) :].lstrip("/")

    def write(self, path: str, data: bytes) -> None:
        """Write a file so that it is seen whole or not at all, also after a crash."""
        if not self.is_local_folder or self.root is None:
            with contextlib.suppress(NotImplementedError):
                self.fs.makedirs(self.fs._parent(self.key(path)), exist_ok=True)
            self.fs.pipe_file(self.key(path), data)
            return
        target = self.root / path
        scratch = self.root / SCRATCH
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch.parent.mkdir(parents=True, exist_ok=True)
        with scratch.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(target)
        _sync_folder(target.parent)

    def move_into_place(self, finished: Path, path: str) -> None:
        """Make a file that was written beside the store one of its files, whole or not at all."""
        if not self.is_local_folder or self.root is None:
            with contextlib.suppress(NotImplementedError):
                self.fs.makedirs(self.fs._parent(self.key(path)), exist_ok=True)
            self.fs.put_file(str(finished), self.key(path))
            finished.unlink()
            return
        with finished.open("rb") as file:
            os.fsync(file.fileno())
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        finished.replace(target)
        _sync_folder(target.parent)

    def remove(self, path: str) -> None:
        """Remove a file or a folder with all it holds; nothing happens where there is none."""
        if self.is_local_folder and self.root is not None:
            target = self.root / path
            if target.is_dir():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)
        elif self.exists(path):
            self.fs.rm(self.key(path), recursive=True)


@contextlib.contextmanager
def _damage_reported(url: str) -> Iterator[None]:
    try:
        yield
    except _ZIP_ERRORS as error:
        raise DamageError(f"{url}: not a whole zip file: {error}. Restore it from a copy") from error


def working_storage(target: Storage) -> Storage:
    """Where a store is written: beside the target if that is to be a zip file, else in place.

    Raises StoreError for a zip file that is not on this machine's disk.
    """
    zipped = target.url.endswith(".zip")
    if zipped and target.root is None:
        raise StoreError(f"{target}: a zip file can only be written to a local path; leave out .zip")
    return Storage(f"{target.root}{STAGING}") if zipped else target


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
