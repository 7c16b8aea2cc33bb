"""The listings of folders at URLs, as compact columns; each folder is listed once to open a source."""

from __future__ import annotations

import hashlib
import time
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from typing_extensions import override

from tokenstore.sources.images import EXTENSIONS
from tokenstore.sources.names import NameBuilder
from tokenstore.version import __version__

if TYPE_CHECKING:
    from tokenstore.sources.listings import SavedListings
    from tokenstore.sources.remote_files import RemotePlace
    from tokenstore.storage.remote.entries import Entry

__all__ = ["FolderListing", "FolderListings", "Names", "list_folder"]

_ENDINGS = frozenset(extension.encode() for extension in EXTENSIONS)
_AT_ONCE = 65_536
"""The names that are Python objects at a time."""


class Names(Sequence[bytes]):
    """A column of names as a sequence, whose names become Python objects when they are looked at."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._column = column

    @override
    def __len__(self) -> int:
        return len(self._column)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> Names: ...
    @override
    def __getitem__(self, index: int | slice) -> bytes | Names:
        if isinstance(index, slice):
            return Names(self._column.take(pa.array(range(*index.indices(len(self))), pa.int64())))
        name: bytes = self._column[index].as_py()
        return name

    @override
    def __iter__(self) -> Iterator[bytes]:
        for start in range(0, len(self), _AT_ONCE):
            yield from self._column.slice(start, _AT_ONCE).to_pylist()


@dataclass(frozen=True)
class FolderListing:
    """The files and folders directly in a folder."""

    entries: pa.ChunkedArray
    """The sorted names of images and folders, hidden ones left out; those of folders end in a slash."""
    others: pa.Table
    """The `name` of every other file and folder, sorted, and the `nbytes` and `version` of files."""

    def __len__(self) -> int:
        return len(self.entries) + len(self.others)

    def folders(self) -> Names:
        """Return the names of the folders that are not hidden; they end in a slash."""
        return Names(self.entries.filter(pc.ends_with(self.entries, b"/")))

    def to_table(self) -> pa.Table:
        """Return the names alone, for `from_table`."""
        names = pa.chunked_array([*self.entries.chunks, *self.others["name"].chunks], pa.binary())
        return pa.table({"name": names, "is_entry": np.arange(len(names)) < len(self.entries)})

    @classmethod
    def from_table(cls, table: pa.Table) -> FolderListing:
        """Return the listing of `to_table`; sizes and versions are null."""
        names = table["name"]
        others = names.filter(pc.invert(table["is_entry"]))
        nulls = {
            "nbytes": pa.nulls(len(others), pa.int64()),
            "version": pa.nulls(len(others), pa.string()),
        }
        return cls(names.filter(table["is_entry"]), pa.table({"name": others, **nulls}))


def list_folder(place: RemotePlace, path: str) -> FolderListing:
    """List a folder; a missing one is empty. Raises StorageError for a place that lists nothing."""
    return _listing(entry for page in place.storage.entry_pages(path) for entry in page)


def _listing(listed: Iterable[Entry]) -> FolderListing:
    entries, names, sizes, versions = NameBuilder(), NameBuilder(), array("q"), NameBuilder()
    for entry in listed:
        name = entry.name.encode("utf-8", "surrogateescape") + (b"/" if entry.is_folder else b"")
        is_image = name.rpartition(b".")[2].lower() in _ENDINGS and b"." in name
        if (entry.is_folder or is_image) and not name.startswith((b".", b"/")):
            entries.append(name)
        else:
            names.append(name)
            sizes.append(entry.nbytes)
            versions.append(None if entry.is_folder else entry.version.encode())
    column = names.finish()
    order = _order(column)
    others = {
        "name": column.take(order),
        "nbytes": pa.array(np.array(sizes, np.int64)).take(order),
        "version": versions.finish().cast(pa.string()).take(order),
    }
    images = entries.finish()
    return FolderListing(images.take(_order(images)), pa.table(others))


def _order(names: pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    """Return the row numbers of names in the order of their bytes."""
    order: npt.NDArray[np.uint64] = pc.sort_indices(names).to_numpy()
    return order


class FolderListings:
    """The listings of the folders of one source while it is opened, each made once.

    The listings of a folder of images are saved for a conversion that goes on. A folder tells no version, so
    they are taken from there only if they are `trusted`: what the conversion began with.
    """

    def __init__(self, saved: SavedListings | None = None, *, trusted: bool = False) -> None:
        self._saved, self._trusted = saved, trusted
        self._known: dict[tuple[str, str], FolderListing] = {}
        self._put: set[str] = set()
        self.took_saved = False
        """True if a listing was taken from those that were saved."""

    def known(self, place: RemotePlace, path: str, *, saved: bool) -> FolderListing | None:
        """Return the listing of a folder that was listed before, also one that was `saved`, or None."""
        listing = self._known.get((str(place), path))
        if listing is None and saved and self._saved is not None and self._trusted:
            table = self._saved.get(_key(place, path))
            if table is not None:
                listing, self.took_saved = FolderListing.from_table(table.table), True
                self._known[str(place), path] = listing
        return listing

    def of(self, place: RemotePlace, path: str) -> FolderListing:
        """Return the listing of a folder, which is listed unless it was before."""
        listing = self.known(place, path, saved=False)
        return self.keep(place, path, list_folder(place, path)) if listing is None else listing

    def keep(self, place: RemotePlace, path: str, listing: FolderListing) -> FolderListing:
        """Remember the listing of a folder, and return it."""
        return self._known.setdefault((str(place), path), listing)

    def save(self, place: RemotePlace, path: str, listing: FolderListing) -> None:
        """Save the listing of a folder of images, once."""
        from tokenstore.sources.listings import FileListing

        key = _key(place, path)
        if self._saved is None or key in self._put or (self._trusted and self._saved.get(key) is not None):
            return
        self._put.add(key)
        # subtle: a conversion that was begun anew may find what the one before it has saved
        self._saved.put(key, FileListing(listing.to_table(), {"saved": time.time()}), slow=True)

    def forget(self) -> None:
        """Forget all listings: the source is open."""
        self._known.clear()


def _key(place: RemotePlace, path: str) -> str:
    facts = __version__, "folder", str(place), path
    return hashlib.sha256(repr(facts).encode("utf-8", "surrogateescape")).hexdigest()
