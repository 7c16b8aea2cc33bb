"""The walk through a folder of images, in the order of the paths' bytes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from tokenstore.errors import SourceError
from tokenstore.sources.images import EXTENSIONS
from tokenstore.sources.labels import looks_like_label
from tokenstore.sources.names import Tally, printable

_ENDINGS = frozenset(extension.encode() for extension in EXTENSIONS)


_MOST_LABEL_FILES = 1000


class SkippedEntries:
    """The entries that a walk met and did not list."""

    def __init__(self) -> None:
        self.others = Tally("files skipped, as their names do not end like an image's")
        self.special = Tally("named like images but skipped, as they are no files or lead nowhere")
        self.loops = Tally("links skipped, as they lead back to a folder that they are in")
        self.empty_classes = Tally("folders without images, which are no classes")
        self.label_files: set[bytes] = set()
        """The first of the files that may hold labels."""

    def notes(self) -> tuple[str, ...]:
        """Return a sentence for each sort of entry that was met."""
        tallies = (self.others, self.special, self.loops, self.empty_classes)
        return tuple(note for tally in tallies for note in tally.notes())


def holds_images(root: bytes, folder: bytes) -> bool:
    """Return whether an image lies anywhere below a folder."""
    return next(walk(root, folder, SkippedEntries()), None) is not None


def walk(root: bytes, folder: bytes, skipped: SkippedEntries) -> Iterator[bytes]:
    """Yield the paths of all images below a folder, sorted by their bytes; links to folders are followed.

    Raises SourceError where a folder cannot be listed.
    """
    above = [_identity(root, folder)]
    levels = [(folder, iter(scan(root, folder, skipped)))]
    while levels:
        prefix, entries = levels[-1]
        entry = next(entries, None)
        if entry is None:
            levels.pop()
            above.pop()
        elif not entry.endswith(b"/"):
            yield prefix + entry
        else:
            identity = _identity(root, prefix + entry)
            if identity in above:
                skipped.loops.add(prefix + entry)
                continue
            above.append(identity)
            levels.append((prefix + entry, iter(scan(root, prefix + entry, skipped))))


def _identity(root: bytes, folder: bytes) -> tuple[int, int]:
    try:
        status = Path(os.fsdecode(root + folder)).stat()
    except OSError as error:
        raise _cannot_list(root, folder, error) from error
    return status.st_dev, status.st_ino


def scan(root: bytes, folder: bytes, skipped: SkippedEntries) -> list[bytes]:
    """List the images and folders in a folder.

    Folders end in a slash, so that they sort as their paths do. Raises SourceError where the folder cannot be
    listed.
    """
    entries = []
    try:
        with os.scandir(root + folder) as scanned:
            for entry in scanned:
                name = entry.name
                if name.startswith(b"."):
                    continue
                if _is(entry, "dir"):
                    entries.append(name + b"/")
                elif b"." not in name or name.rpartition(b".")[2].lower() not in _ENDINGS:
                    skipped.others.add(folder + name)
                    if len(skipped.label_files) < _MOST_LABEL_FILES and may_hold_labels(name):
                        skipped.label_files.add(folder + name)
                elif _is(entry, "file"):
                    entries.append(name)
                else:
                    skipped.special.add(folder + name)
    except OSError as error:
        raise _cannot_list(root, folder, error) from error
    entries.sort()
    return entries


def may_hold_labels(name: bytes) -> bool:
    """Return whether a file's name is that of a table, or has a word for labels in it."""
    stem, _, ending = printable(name).lower().rpartition(".")
    return ending in ("csv", "tsv", "jsonl") or (
        ending in ("txt", "json", "xml", "mat", "pkl") and (looks_like_label(stem) or "annotation" in stem)
    )


def _is(entry: os.DirEntry[bytes], what: str) -> bool:
    try:
        return entry.is_dir() if what == "dir" else entry.is_file()
    except OSError:  # a link that leads to itself
        return False


def _cannot_list(root: bytes, folder: bytes, error: OSError) -> SourceError:
    return SourceError(f"{printable(root + folder)}: cannot be listed: {error.strerror}")


def with_slash(location: str | Path) -> bytes:
    """Return a folder's path, ending in a slash, as paths below are appended to."""
    return os.fsencode(location).rstrip(b"/") + b"/"
