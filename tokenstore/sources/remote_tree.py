"""A folder of images at a URL, with the folders below it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeAlias

from typing_extensions import override

from tokenstore.errors import SampleError, SourceError
from tokenstore.sources.base import PlacedRequest
from tokenstore.sources.files import SourceFile
from tokenstore.sources.image_walk import ImageTree, Kind, SkippedEntries, sorted_entries
from tokenstore.sources.names import printable
from tokenstore.sources.remote_files import MISSING, RemotePlace

__all__ = ["RemoteFileRequest", "RemoteTree"]

_Names: TypeAlias = list[tuple[bytes, Kind]]
_AHEAD = 32
"""The folders that are listed ahead of the walk through them."""
_REMEMBERED_FOLDERS = 64
_REMEMBERED_NAMES = 20_000
"""The size up to which a folder's listing is remembered: folders near the root are looked at again."""


@dataclass(frozen=True)
class RemoteFileRequest(PlacedRequest):
    """A request for some files of a remote place."""

    place: RemotePlace
    paths: tuple[str, ...]

    @property
    @override
    def is_remote(self) -> bool:
        return True

    @property
    @override
    def is_shared(self) -> bool:
        return False

    @override
    def read(self) -> Sequence[bytes | SampleError]:
        missing = SampleError(MISSING)
        return [missing if image is None else image for image in self.place.read_files(self.paths)]


class RemoteTree(ImageTree):
    """A tree at a URL; `ahead` of the folders that a walk comes to next are listed meanwhile."""

    def __init__(self, place: RemotePlace, path: str, ahead: int = _AHEAD) -> None:
        self._place, self._path, self._most_ahead = place, path, ahead
        self._threads: ThreadPoolExecutor | None = None
        self._next: dict[bytes, None] = {}
        """The folders that a walk comes to, the next one last."""
        self._ahead: dict[bytes, Future[_Names]] = {}
        self._remembered: OrderedDict[bytes, _Names] = OrderedDict()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._place, self._path)

    @property
    @override
    def is_remote(self) -> bool:
        return True

    @property
    @override
    def name(self) -> str:
        return self._path.rpartition("/")[2]

    @override
    def where(self, path: bytes) -> str:
        return printable(self._place.url_of(self._whole(path)).encode("utf-8", "surrogateescape"))

    @override
    def scan(self, folder: bytes, skipped: SkippedEntries) -> list[bytes]:
        entries = sorted_entries(folder, self._names(folder), skipped)
        for entry in reversed(entries):
            if entry.endswith(b"/") and folder + entry not in self._remembered:
                self._next.pop(folder + entry, None)
                self._next[folder + entry] = None
        return entries

    @override
    def identity(self, folder: bytes) -> object:
        return folder

    @override
    def is_folder(self, path: bytes) -> bool:
        return bool(self._names(path.rstrip(b"/") + b"/" if path else b""))

    @property
    @override
    def whole(self) -> str:
        return self.where(b"").rstrip("/") + "/"

    @override
    def table_names(self, folder: bytes) -> list[str]:
        return [
            name.decode("utf-8", "surrogateescape") for name, kind in self._names(folder) if kind == "file"
        ]

    @override
    def file(self, path: bytes) -> SourceFile:
        try:
            return self._place.file(self._whole(path))
        except FileNotFoundError as error:
            raise SourceError(f"{self.where(path)}: no such file") from error

    @override
    def request(self, paths: Sequence[bytes]) -> RemoteFileRequest:
        return RemoteFileRequest(self._place, tuple(map(self._whole, paths)))

    @override
    def read_files(self, paths: Sequence[bytes]) -> list[bytes | SampleError | None]:
        return list(self._place.read_files(list(map(self._whole, paths))))

    def _whole(self, path: bytes) -> str:
        return f"{self._path}/{path.decode('utf-8', 'surrogateescape')}".strip("/")

    def _names(self, folder: bytes) -> _Names:
        """Return the names and kinds of all that a folder has; list the folders that come next meanwhile."""
        if folder in self._remembered:
            return self._remembered[folder]
        self._next.pop(folder, None)
        future = self._ahead.pop(folder, None)
        if self._next and self._most_ahead and self._threads is None:
            self._threads = ThreadPoolExecutor(_AHEAD, "tokenstore-folders")
        for path in islice(reversed(self._next), self._most_ahead):
            if path not in self._ahead and self._threads is not None:
                self._ahead[path] = self._threads.submit(self._list, path)
        names = self._list(folder) if future is None else future.result()
        if not self._next and self._threads is not None:
            self._threads.shutdown(wait=False)
            self._threads = None
        if len(names) <= _REMEMBERED_NAMES:
            self._remembered[folder] = names
            if len(self._remembered) > _REMEMBERED_FOLDERS:
                self._remembered.popitem(last=False)
        return names

    def _list(self, folder: bytes) -> _Names:
        entries = self._place.storage.entries(self._whole(folder))
        return [
            (entry.name.encode("utf-8", "surrogateescape"), "folder" if entry.is_folder else "file")
            for entry in entries
        ]
