"""The folders that files of a source lie in: on this machine's disk, or at a URL."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

from typing_extensions import override

from tokenstore.errors import SourceError
from tokenstore.sources.files import LocalFile, SourceFile
from tokenstore.sources.folder_listings import FolderListing, FolderListings, Names
from tokenstore.sources.remote_files import RemoteFile, RemotePlace

__all__ = [
    "Folder",
    "FolderAtUrl",
    "FolderOnDisk",
    "existing_files",
    "files_ending",
    "folders_in",
    "matching_files",
]

_LOOKUPS = 32
"""The files that are looked up at a time."""


class Folder(Protocol):
    """A folder of files; `str()` is its place as messages name it."""

    @property
    def name(self) -> str:
        """The last part of the folder's path."""

    def files(self, endings: Sequence[str]) -> Sequence[SourceFile]:
        """Return the files directly in the folder with one of the endings, sorted; hidden ones are left out.

        Endings are in lower case; those of files may be in any. Raises SourceError if the folder cannot be
        listed.
        """

    def folders(self) -> Sequence[Folder]:
        """Return the folders directly in the folder, sorted; hidden ones are left out."""


@dataclass(frozen=True)
class FolderOnDisk(Folder):
    """A folder on this machine's disk."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @property
    @override
    def name(self) -> str:
        return self.path.resolve().name

    @override
    def files(self, endings: Sequence[str]) -> Sequence[SourceFile]:
        return [LocalFile.of(path) for path in files_ending(self.path, endings)]

    @override
    def folders(self) -> Sequence[Folder]:
        return [FolderOnDisk(path) for path in folders_in(self.path)]


@dataclass(frozen=True)
class FolderAtUrl(Folder):
    """A folder at a URL, listed once for all that have the same listings."""

    place: RemotePlace
    path: str
    listings: FolderListings = field(default_factory=FolderListings, compare=False)

    def __str__(self) -> str:
        return self.place.url_of(self.path)

    @property
    @override
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @cached_property
    def _entries(self) -> tuple[tuple[RemoteFile, ...], tuple[FolderAtUrl, ...]]:
        prefix = self.path + "/" if self.path else ""
        entries = self.place.storage.entries(self.path)
        files = (
            RemoteFile(self.place, prefix + e.name, e.nbytes, e.version) for e in entries if not e.is_folder
        )
        folders = (FolderAtUrl(self.place, prefix + e.name, self.listings) for e in entries if e.is_folder)
        return tuple(files), tuple(folders)

    @property
    def _listing(self) -> FolderListing:
        return self.listings.of(self.place, self.path)

    @override
    def files(self, endings: Sequence[str]) -> Sequence[RemoteFile]:
        prefix = self.path + "/" if self.path else ""
        others, files = self._listing.others, list[RemoteFile]()
        for row, name in enumerate(map(os.fsdecode, Names(others["name"]))):
            if _fits(name, endings):
                nbytes, version = others["nbytes"][row].as_py(), others["version"][row].as_py()
                files.append(RemoteFile(self.place, prefix + name, nbytes, version))
        return files

    @override
    def folders(self) -> Sequence[FolderAtUrl]:
        prefix = self.path + "/" if self.path else ""
        names = (os.fsdecode(name).rstrip("/") for name in self._listing.folders())
        return [FolderAtUrl(self.place, prefix + name, self.listings) for name in names]

    def exists(self) -> bool:
        """Return True if anything is in the folder: object storage has no empty folders."""
        return len(self._listing) > 0

    def all_files(self) -> Sequence[RemoteFile]:
        """Return the files directly in the folder, hidden ones too."""
        return self._entries[0]

    def all_folders(self) -> Sequence[FolderAtUrl]:
        """Return the folders directly in the folder, hidden ones too."""
        return self._entries[1]


def files_ending(folder: Path, endings: Sequence[str]) -> list[Path]:
    """List the files directly in a local folder, sorted by name, hidden ones left out.

    Raises SourceError if the folder cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if _fits(entry.name, endings) and entry.is_file()]
    except OSError as error:
        raise SourceError(f"{folder}: cannot be listed: {error.strerror}") from error
    return sorted(folder / name for name in names)


def folders_in(folder: Path) -> list[Path]:
    """List the folders directly in a local folder, sorted by name, hidden ones left out.

    Raises SourceError if the folder cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:  # which knows folders without a look at each of a million files
            names = [entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
    except OSError as error:
        raise SourceError(f"{folder}: cannot be listed: {error.strerror}") from error
    return sorted(folder / name for name in names)


def existing_files(place: RemotePlace, paths: Iterable[str]) -> Iterator[RemoteFile | None]:
    """Look up files, many at a time, and yield each in order, None for a file that does not exist."""

    def look_up(path: str) -> RemoteFile | None:
        try:
            return place.file(path)
        except FileNotFoundError:
            return None

    with ThreadPoolExecutor(_LOOKUPS, "tokenstore-lookups") as threads:
        yield from threads.map(look_up, paths)


def matching_files(folder: FolderAtUrl, parts: Sequence[str]) -> Iterator[RemoteFile]:
    """Yield the files below a folder whose paths match wildcards, part by part; `**` is any folders.

    Matches are those of `pathlib.Path.glob`.
    """
    first, *rest = parts
    if first == "**":
        yield from matching_files(folder, rest or ["*"])
        for below in folder.all_folders():
            yield from matching_files(below, parts)
    elif rest:
        for below in folder.all_folders():
            if fnmatch.fnmatchcase(below.name, first):
                yield from matching_files(below, rest)
    else:
        for file in folder.all_files():
            if fnmatch.fnmatchcase(file.path.rpartition("/")[2], first):
                yield file


def _fits(name: str, endings: Sequence[str]) -> bool:
    return name.lower().endswith(tuple(endings)) and not name.startswith(".")
