"""A folder of images at a URL, with the folders below it."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

from typing_extensions import override

from tokenstore.errors import SampleError, SourceError
from tokenstore.sources.base import PlacedRequest
from tokenstore.sources.files import SourceFile
from tokenstore.sources.folder_listings import FolderListing, FolderListings, Names, list_folder
from tokenstore.sources.image_walk import ImageTree, SkippedEntries
from tokenstore.sources.names import printable
from tokenstore.sources.remote_files import MISSING, RemotePlace

__all__ = ["RemoteFileRequest", "RemoteTree"]

_AHEAD = 32
"""The folders that are listed ahead of the walk through them."""


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
    """A tree at a URL; `ahead` of the folders that a walk comes to next are listed meanwhile.

    Folders that `listings` has are not listed again. With `saves`, listings are saved there, and taken from
    those that were saved.
    """

    def __init__(
        self,
        place: RemotePlace,
        path: str,
        ahead: int = _AHEAD,
        listings: FolderListings | None = None,
        *,
        saves: bool = False,
    ) -> None:
        self._place, self._path, self._most_ahead = place, path, ahead
        self._listings, self._saves = listings or FolderListings(), saves
        self._threads: ThreadPoolExecutor | None = None
        self._next: dict[bytes, None] = {}
        """The folders that a walk comes to, the next one last."""
        self._ahead: dict[bytes, Future[FolderListing]] = {}

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
    def scan(self, folder: bytes, skipped: SkippedEntries) -> Sequence[bytes]:
        listing = self._listing(folder)
        for name in Names(listing.others["name"]):
            skipped.add_file(folder, name)
        for entry in reversed(listing.folders()):
            if self._known(folder + entry) is None:
                self._next.pop(folder + entry, None)
                self._next[folder + entry] = None
        return Names(listing.entries)

    @override
    def identity(self, folder: bytes) -> object:
        return folder

    @override
    def is_folder(self, path: bytes) -> bool:
        return len(self._listing(path.rstrip(b"/") + b"/" if path else b"")) > 0

    @property
    @override
    def whole(self) -> str:
        return self.where(b"").rstrip("/") + "/"

    @override
    def table_names(self, folder: bytes) -> list[str]:
        names = Names(self._listing(folder).others["name"])
        return [name.decode("utf-8", "surrogateescape") for name in names if not name.endswith(b"/")]

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

    def _known(self, folder: bytes) -> FolderListing | None:
        return self._listings.known(self._place, self._whole(folder), saved=self._saves)

    def _listing(self, folder: bytes) -> FolderListing:
        """Return the listing of a folder; list the folders that come next meanwhile."""
        self._next.pop(folder, None)
        listing = self._known(folder)
        if listing is None:
            listing = self._listings.keep(self._place, self._whole(folder), self._made(folder))
        if self._saves:
            self._listings.save(self._place, self._whole(folder), listing)
        return listing

    def _made(self, folder: bytes) -> FolderListing:
        future = self._ahead.pop(folder, None)
        if self._next and self._most_ahead and self._threads is None:
            self._threads = ThreadPoolExecutor(_AHEAD, "tokenstore-folders")
        for path in islice(reversed(self._next), self._most_ahead):
            if path not in self._ahead and self._threads is not None:
                self._ahead[path] = self._threads.submit(list_folder, self._place, self._whole(path))
        listing = list_folder(self._place, self._whole(folder)) if future is None else future.result()
        if not self._next and self._threads is not None:
            self._threads.shutdown(wait=False)
            self._threads = None
        return listing
