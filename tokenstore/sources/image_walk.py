"""The walk through a folder of images, in the order of the paths' bytes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

from typing_extensions import override

from tokenstore.errors import SampleError, SourceError
from tokenstore.sources.base import ImageRequest
from tokenstore.sources.file_bytes import read_file
from tokenstore.sources.files import LocalFile, SourceFile
from tokenstore.sources.images import EXTENSIONS
from tokenstore.sources.labels import looks_like_label
from tokenstore.sources.names import Tally, printable

Kind: TypeAlias = Literal["folder", "file", "other"]
"""The kinds of entries of a folder, links followed."""
_ENDINGS = frozenset(extension.encode() for extension in EXTENSIONS)

_METADATA = frozenset((b"metadata.jsonl", b"metadata.csv", b"metadata.parquet"))
"""The names of Hugging Face's tables of facts of the images beside them."""
_MOST_LABEL_FILES = 1000


class SkippedEntries:
    """The entries that a walk met and did not list."""

    def __init__(self) -> None:
        self.others = Tally("files skipped, as their names do not end like an image's")
        self.metadata = Tally("tables of facts of images (Hugging Face's ImageFolder), which are not read")
        self.special = Tally("named like images but skipped, as they are no files or lead nowhere")
        self.nameless = Tally("files and folders skipped whose paths have an empty part, as in a//b")
        self.loops = Tally("links skipped, as they lead back to a folder that they are in")
        self.empty_classes = Tally("folders without images, which are no classes")
        self.label_files: set[bytes] = set()
        """The first of the files that may hold labels."""

    def add_file(self, folder: bytes, name: bytes) -> None:
        """Count a file of a folder that is no image; hidden ones and folders do not count."""
        if name == b"/":
            self.nameless.add(folder)
        elif not name.startswith(b".") and not name.endswith(b"/"):
            (self.metadata if name.lower() in _METADATA else self.others).add(folder + name)
            if len(self.label_files) < _MOST_LABEL_FILES and may_hold_labels(name):
                self.label_files.add(folder + name)

    def notes(self) -> tuple[str, ...]:
        """Return a sentence for each sort of entry that was met."""
        tallies = (
            *(self.others, self.metadata, self.special, self.nameless),
            *(self.loops, self.empty_classes),
        )
        return tuple(note for tally in tallies for note in tally.notes())


class ImageTree(Protocol):
    """A folder of images with the folders below it; paths are relative to it, and folders end in a slash."""

    @property
    def is_remote(self) -> bool:
        """True if files come over a network."""

    @property
    def name(self) -> str:
        """The last part of the tree's own path."""

    def where(self, path: bytes) -> str:
        """Return the whole printable path or URL of a file or folder, for messages."""

    def scan(self, folder: bytes, skipped: SkippedEntries) -> Sequence[bytes]:
        """List the images and folders in a folder, sorted; folders end in a slash, as their paths do.

        Raises SourceError where the folder cannot be listed.
        """

    def identity(self, folder: bytes) -> object:
        """Return what only this folder is: a link to it is it, too."""

    def is_folder(self, path: bytes) -> bool:
        """Return whether a folder is at a path."""

    @property
    def whole(self) -> str:
        """The tree's own path, links followed, or URL; it ends in a slash."""

    def table_names(self, folder: bytes) -> list[str]:
        """Return the names of the files in a folder that are no images, sorted."""

    def file(self, path: bytes) -> SourceFile:
        """Return a file; raise SourceError if no file is there."""

    def request(self, paths: Sequence[bytes]) -> ImageRequest:
        """Return the request by which a decoding process reads images."""

    def read_files(self, paths: Sequence[bytes]) -> list[bytes | SampleError | None]:
        """Return whole files, or the reasons why they cannot be read; None for a file that does not exist."""


@dataclass(frozen=True)
class FileRequest(ImageRequest):
    """A request for some files below one folder."""

    root: bytes
    """The absolute path of the folder, ending in a slash."""
    paths: tuple[bytes, ...]

    @override
    def read(self) -> Sequence[bytes | SampleError]:
        return [read_file(self.root + path) for path in self.paths]


class TreeOnDisk(ImageTree):
    """A tree on this machine's disk; a change of the working folder changes nothing."""

    def __init__(self, location: str | Path | bytes) -> None:
        self.shown = os.fsencode(location).rstrip(b"/") + b"/"
        """The path as the user gave it, ending in a slash."""
        self.root = os.fsencode(Path(os.fsdecode(self.shown)).absolute()).rstrip(b"/") + b"/"

    @property
    @override
    def is_remote(self) -> bool:
        return False

    @property
    @override
    def name(self) -> str:
        return Path(os.fsdecode(self.root)).resolve().name

    @override
    def where(self, path: bytes) -> str:
        return printable(self.shown + path)

    @override
    def scan(self, folder: bytes, skipped: SkippedEntries) -> list[bytes]:
        try:
            with os.scandir(self.root + folder) as scanned:
                return sorted_entries(folder, ((entry.name, _kind(entry)) for entry in scanned), skipped)
        except OSError as error:
            raise self._cannot_list(folder, error) from error

    @override
    def identity(self, folder: bytes) -> object:
        try:
            status = Path(os.fsdecode(self.root + folder)).stat()
        except OSError as error:
            raise self._cannot_list(folder, error) from error
        return status.st_dev, status.st_ino

    @override
    def is_folder(self, path: bytes) -> bool:
        return Path(os.fsdecode(self.root + path)).is_dir()

    @property
    @override
    def whole(self) -> str:
        return str(Path(os.fsdecode(self.root)).resolve()).rstrip("/") + "/"

    @override
    def table_names(self, folder: bytes) -> list[str]:
        return sorted(path.name for path in Path(os.fsdecode(self.root + folder)).iterdir())

    @override
    def file(self, path: bytes) -> SourceFile:
        return LocalFile(os.fsdecode(self.root + path), os.fsdecode(self.shown + path))

    @override
    def request(self, paths: Sequence[bytes]) -> ImageRequest:
        return FileRequest(self.root, tuple(paths))

    @override
    def read_files(self, paths: Sequence[bytes]) -> list[bytes | SampleError | None]:
        wholes = [self.root + path for path in paths]
        return [read_file(whole) if os.path.lexists(whole) else None for whole in wholes]

    def _cannot_list(self, folder: bytes, error: OSError) -> SourceError:
        return SourceError(f"{self.where(folder)}: cannot be listed: {error.strerror}")


def holds_images(tree: ImageTree, folder: bytes) -> bool:
    """Return whether an image lies anywhere below a folder."""
    return next(walk(tree, folder, SkippedEntries()), None) is not None


def walk(tree: ImageTree, folder: bytes, skipped: SkippedEntries) -> Iterator[bytes]:
    """Yield the paths of all images below a folder, sorted by their bytes; links to folders are followed.

    Raises SourceError where a folder cannot be listed.
    """
    above = [tree.identity(folder)]
    levels = [(folder, iter(tree.scan(folder, skipped)))]
    while levels:
        prefix, entries = levels[-1]
        entry = next(entries, None)
        if entry is None:
            levels.pop()
            above.pop()
        elif not entry.endswith(b"/"):
            yield prefix + entry
        else:
            identity = tree.identity(prefix + entry)
            if identity in above:
                skipped.loops.add(prefix + entry)
                continue
            above.append(identity)
            levels.append((prefix + entry, iter(tree.scan(prefix + entry, skipped))))


def sorted_entries(
    folder: bytes, names: Iterable[tuple[bytes, Kind]], skipped: SkippedEntries
) -> list[bytes]:
    """Return images and folders, sorted, from the names and kinds of all that a folder has."""
    entries = []
    for name, kind in names:
        if name.startswith(b"."):
            continue
        if kind == "folder":
            entries.append(name + b"/")
        elif b"." not in name or name.rpartition(b".")[2].lower() not in _ENDINGS:
            skipped.add_file(folder, name)
        elif kind == "file":
            entries.append(name)
        else:
            skipped.special.add(folder + name)
    return sorted(entries)


def may_hold_labels(name: bytes) -> bool:
    """Return whether a file's name is that of a table, or has a word for labels in it."""
    stem, _, ending = printable(name).lower().rpartition(".")
    return ending in ("csv", "tsv", "jsonl") or (
        ending in ("txt", "json", "xml", "mat", "pkl") and (looks_like_label(stem) or "annotation" in stem)
    )


def _kind(entry: os.DirEntry[bytes]) -> Kind:
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else "other"
    except OSError:  # a link that leads to itself
        return "other"
