"""A local folder with a store's files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from typing_extensions import override

from tokenstore.files import create_file, move_file, sync_names, write_file
from tokenstore.storage.base import IN_PLACE_MARKER, LOCAL_BLOCK_NBYTES, SCRATCH, STAGING, Storage, too_long
from tokenstore.storage.regular import open_regular, read_at, version_of

__all__ = ["LocalFolder", "LocalPlace", "exchanged_store", "open_local", "working_folder"]


class LocalPlace(Storage):
    """A folder or zip file on this machine's disk, at a path such as "data/store.zarr".

    A relative path is that of the moment when the place was opened: it stays the same place, in a pickled
    copy too, after a change of the working directory. Messages show the path as it was given.
    """

    root: Path

    def __init__(self, url: str, root: Path | None = None) -> None:
        self.url = url
        self.root = root or Path(url.removeprefix("file://")).expanduser().absolute()

    def __reduce__(self) -> tuple[Any, ...]:
        return open_local, (self.url, self.root)

    @override
    def interrupted_exchange(self) -> Path | None:
        folder = working_folder(Path(os.path.realpath(self.root)))
        is_ours = (folder / IN_PLACE_MARKER).exists() and exchanged_store(folder).exists()
        return folder if is_ours and not self.root.exists() else None

    @override
    def reopened(self) -> Storage:
        return open_local(self.url, self.root)

    @override
    def working_storage(self) -> Storage:
        return open_local(f"{self.root}{STAGING}") if self.url.endswith(".zip") else self


class LocalFolder(LocalPlace):
    """The files below a local folder, which need not exist yet.

    A path that ends in ".zip" is a folder as long as no zip file is there.
    """

    folder: Path
    maps_files = True

    def __init__(self, url: str, root: Path | None = None) -> None:
        super().__init__(url, root)
        self.folder = self.root
        self._prefix = str(self.root)

    def _opened(self, path: str) -> tuple[int, int]:
        return open_regular(f"{self._prefix}/{path}" if path else self._prefix, f"{self.url}/{path}")

    @override
    def version(self, path: str) -> tuple[int, ...] | None:
        try:
            return version_of(os.stat(f"{self._prefix}/{path}"))  # noqa: PTH116 (pathlib costs more)
        except OSError:  # reading the file says why
            return None

    @override
    def read(self, path: str, limit: int | None = None) -> bytes:
        descriptor, size = self._opened(path)
        try:
            if limit is not None and size > limit:
                raise too_long(f"{self.url}/{path}", limit, size)
            return read_at(descriptor, 0, size)
        finally:
            os.close(descriptor)

    @override
    def read_range(self, path: str, start: int, stop: int) -> bytes:
        descriptor, size = self._opened(path)
        try:
            return read_at(descriptor, start, min(stop, size))
        finally:
            os.close(descriptor)

    @override
    def blocks(self, path: str) -> Iterator[bytes]:
        descriptor, size = self._opened(path)
        try:
            for start in range(0, size, LOCAL_BLOCK_NBYTES):
                yield read_at(descriptor, start, min(start + LOCAL_BLOCK_NBYTES, size))
        finally:
            os.close(descriptor)

    @override
    def open_file(self, path: str) -> tuple[int, int, int]:
        descriptor, size = self._opened(path)
        return descriptor, 0, size

    @override
    def size(self, path: str) -> int:
        return (self.folder / path).stat().st_size

    @override
    def exists(self, path: str = "") -> bool:
        return (self.folder / path).exists()

    @override
    def files(self) -> list[str]:
        if self.folder.is_file():
            return [""]
        paths: list[str] = []
        folders = [""]
        while folders:
            prefix = folders.pop()
            try:
                entries = os.scandir(f"{self._prefix}/{prefix}")
            except OSError:  # it is gone, or may not be read
                continue
            with entries:
                for entry in entries:
                    path = f"{prefix}{entry.name}"
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(f"{path}/")
                    else:
                        paths.append(path)
        return sorted(paths)

    @override
    def write(self, path: str, data: bytes) -> None:
        self._write(path, data, sync_name=True)

    def _write(self, path: str, data: bytes, *, sync_name: bool) -> None:
        target, scratch = self.folder / path, self.folder / SCRATCH
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch.parent.mkdir(parents=True, exist_ok=True)
        write_file(target, data, temporary=scratch, sync_name=sync_name)

    @override
    def write_ahead(self, path: str, data: bytes) -> None:
        # subtle: what a killed writer left under the name may have the same size and be taken for this file
        self._write(path, data, sync_name=(self.folder / path).exists())

    @override
    def settle(self, paths: Iterable[str]) -> None:
        sync_names(self.folder, paths)

    @override
    def create(self, path: str, data: bytes) -> None:
        target, scratch = self.folder / path, self.folder / SCRATCH
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch.parent.mkdir(parents=True, exist_ok=True)
        create_file(target, data, temporary=scratch)

    @override
    def move_into_place(self, finished: Path, path: str) -> None:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        move_file(finished, target)

    @override
    def remove(self, path: str) -> None:
        target = self.folder / path
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)

    @override
    def below(self, folder: str) -> Storage:
        return open_local(f"{self.url.rstrip('/')}/{folder}", self.root / folder)


def working_folder(root: Path) -> Path:
    """Return the folder beside a local store in which operations in its place work."""
    return root.with_name(f".{root.name}.in-place")


def exchanged_store(folder: Path) -> Path:
    """Return the old store's path in a working folder, where two folders cannot be exchanged at once."""
    return folder / "old"


def open_local(url: str, root: Path | None = None) -> LocalPlace:
    """Open the local folder or zip file at a path, which may begin with `file://`.

    `root` is its absolute path, by default that of `url` now. A zip file is a file whose name ends in
    ".zip"; raises DamageError where it is no whole zip file.
    """
    place = LocalFolder(url, root)
    if place.root.suffix == ".zip" and place.root.is_file():
        from tokenstore.storage.zipped import LocalZip  # zipfile is slow to import, and seldom needed

        return LocalZip(url, place.root)
    return place
