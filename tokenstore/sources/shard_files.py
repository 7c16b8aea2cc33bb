"""The files of a sharded source: from a path, a pattern or a folder to the shards of each split."""

from __future__ import annotations

import contextlib
import glob
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenstore.errors import SourceError, StorageError
from tokenstore.sources.files import LocalFile, SourceFile
from tokenstore.sources.folder_listings import FolderListings
from tokenstore.sources.folders import Folder, FolderAtUrl, FolderOnDisk, existing_files, matching_files
from tokenstore.sources.listings import SavedListings
from tokenstore.sources.names import counted
from tokenstore.sources.remote_files import RemoteFile, RemotePlace, split_url
from tokenstore.sources.split_names import (
    DEFAULT_SPLIT,
    group_files,
    group_folders,
    in_usual_order,
    renamed_splits,
    split_of_file,
    split_of_folder,
)
from tokenstore.storage import is_remote, public_url

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"([0-9]+)\.\.([0-9]+)")
COMPRESSED_TARS = (".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tgz", ".tbz", ".tbz2", ".txz")
"""The endings of tar files whose samples cannot be reached singly."""
_HUB_FOLDER = "data"
"""The folder in which data sets on the Hugging Face hub keep their files."""


@dataclass(frozen=True)
class Shards:
    """The files of each split."""

    splits: dict[str, tuple[SourceFile, ...]]
    named: bool
    """True if the names of files or folders say the splits, False if all files are in the default split."""
    notes: tuple[str, ...] = ()
    """Remarks on splits that are named otherwise than their files."""


def find_shards(
    location: str | Path,
    endings: Sequence[str],
    storage_options: Mapping[str, Any] | None = None,
    listings: SavedListings | None = None,
) -> Shards:
    """Find the files that a path or URL, a brace or wildcard pattern, or a folder stands for.

    A folder holds files with one of the endings, or folders named after splits that hold such files.

    Raises SourceError if there are no files, or if names do not say the split of each.
    """
    where = str(location)
    if is_remote(where):
        return _remote_shards(where, endings, storage_options, listings)
    path = Path(location)
    if path.is_dir():
        return _shards_in_folder(FolderOnDisk(path), endings)
    files: Sequence[SourceFile] = [LocalFile.of(path)] if path.is_file() else _matching(where)
    return _shards(files, where, DEFAULT_SPLIT)


def is_pattern(location: str) -> bool:
    """Return whether a name holds braces or wildcards; `?` begins the query of a web server's URL."""
    wildcards = location.partition("?")[0] if location.startswith(("http://", "https://")) else location
    return glob.has_magic(wildcards) or _BRACES.search(location) is not None


def expand_braces(pattern: str) -> list[str]:
    """Expand `a-{000..012}.tar` or `a.{x,y}` to names, in the order of a shell.

    Raises SourceError for braces that hold neither a range nor a list.
    """
    braces = _BRACES.search(pattern)
    if braces is None:
        return [pattern]
    choices = braces[1].split(",")
    bounds = _RANGE.fullmatch(braces[1])
    if bounds is not None:
        first, last = int(bounds[1]), int(bounds[2])
        width = max(map(len, bounds.groups())) if any(text.startswith("0") for text in bounds.groups()) else 0
        choices = [f"{number:0{width}}" for number in range(first, last + 1)]
    if not choices or (bounds is None and len(choices) < 2):
        raise SourceError(f"{pattern}: expected braces like {{000..012}} or {{a,b}}, found {braces[0]}")
    tails = expand_braces(pattern[braces.end() :])
    return [pattern[: braces.start()] + choice + tail for choice, tail in itertools.product(choices, tails)]


def _matching(pattern: str) -> list[SourceFile]:
    """Return the local files that a pattern stands for; raise SourceError where a name has none."""
    files: list[SourceFile] = []
    missing = []
    for name in expand_braces(pattern):
        anchor = Path(name).anchor
        matches = Path(anchor).glob(name.removeprefix(anchor)) if glob.has_magic(name) else [Path(name)]
        existing = sorted(match for match in matches if match.is_file())
        files += map(LocalFile.of, existing)
        missing += [] if existing else [name]
    _refuse_missing(pattern, missing)
    return files


def _refuse_missing(pattern: str, missing: Sequence[str]) -> None:
    if missing:
        raise SourceError(f"{pattern}: {len(missing)} files not found (first: {missing[0]})")


def _remote_shards(
    url: str,
    endings: Sequence[str],
    storage_options: Mapping[str, Any] | None,
    listings: SavedListings | None,
) -> Shards:
    where = public_url(url)
    if is_pattern(url):
        return _shards(_remote_matching(url, storage_options), where, DEFAULT_SPLIT)
    place, path = split_url(url, storage_options)
    folders = FolderListings() if listings is None else listings.folders
    folder, exists = FolderAtUrl(place, path, folders), False
    if path.lower().endswith(tuple(endings)):
        (file,) = existing_files(place, [path])
        if file is not None:
            return _shards([file], where, DEFAULT_SPLIT)
        with contextlib.suppress(StorageError):  # a place that lists nothing has no such file, that is all
            exists = folder.exists()
    else:
        exists = folder.exists()
    if not exists:
        raise SourceError(f"{where}: no such file or folder")
    return _shards_in_folder(folder, endings)


def _remote_matching(pattern: str, storage_options: Mapping[str, Any] | None) -> list[SourceFile]:
    """Return the remote files that a pattern stands for; raise SourceError where a name has none.

    Names without wildcards are looked up, many at a time: not every place lists its files.
    """
    names = expand_braces(pattern)
    places = [split_url(name, storage_options) for name in names]
    matches: list[list[RemoteFile | None]] = [[] for _ in names]
    single: dict[RemotePlace, list[int]] = {}
    for number, (place, path) in enumerate(places):
        if is_pattern(names[number]):
            parts = path.split("/")
            fixed = list(itertools.takewhile(lambda part: not glob.has_magic(part), parts))
            below = matching_files(FolderAtUrl(place, "/".join(fixed)), parts[len(fixed) :])
            unique = {file.path: file for file in below}
            matches[number] = [unique[path] for path in sorted(unique, key=lambda path: path.split("/"))]
        else:
            single.setdefault(place, []).append(number)
    for place, numbers in single.items():
        looked_up = existing_files(place, [places[number][1] for number in numbers])
        for number, file in zip(numbers, looked_up, strict=True):
            matches[number] = [file]
    missing = [public_url(name) for name, files in zip(names, matches, strict=True) if not any(files)]
    _refuse_missing(public_url(pattern), missing)
    return [file for files in matches for file in files if file is not None]


def _shards_in_folder(folder: Folder, endings: Sequence[str]) -> Shards:
    direct, folders = folder.files(endings), folder.folders()
    below = {each.name: files for each in folders if (files := each.files(endings))}
    splits = group_folders(list(below), str(folder))
    if splits is not None and direct:
        raise SourceError(
            f"{folder}: file {direct[0].name!r} lies beside split folder {next(iter(below))!r}; move it away"
        )
    if splits:
        by_split = {split: tuple(below[splits[split]]) for split in in_usual_order(splits)}
        return Shards(by_split, named=True, notes=renamed_splits(splits.values()))
    if not direct and _HUB_FOLDER in below:
        hub = next(each for each in folders if each.name == _HUB_FOLDER)
        return _shards_in_folder(hub, endings)
    if not direct:
        raise SourceError(f"{folder}: no files ending in {' or '.join(endings)}, nor split folders of them")
    shards = _shards(direct, str(folder), split_of_folder(folder.name) or DEFAULT_SPLIT)
    packed = folder.files(COMPRESSED_TARS) if ".tar" in endings else ()
    if not packed:
        return shards
    note = counted("compressed tar files left out, to be decompressed first", len(packed), packed[0].name)
    return replace(shards, notes=(*shards.notes, note))


def _shards(files: Sequence[SourceFile], where: str, fallback: str) -> Shards:
    """Group files by the splits that their names say, each file once, in the given order."""
    once = list({file.key: file for file in files}.values())
    names = list(dict.fromkeys(file.name for file in once))
    grouped = group_files(names, where, fallback)
    split_of_name = {name: split for split, of_split in grouped.items() for name in of_split}
    splits = {
        split: tuple(file for file in once if split_of_name[file.name] == split)
        for split in in_usual_order(grouped)
    }
    named = split_of_file(names[0]) is not None
    return Shards(splits, named, renamed_splits(names) if named else ())


def has_shards(folder: Folder, endings: Sequence[str]) -> bool:
    """Return whether a folder, or one of its folders of splits, holds files with one of the endings."""
    below = [each for each in folder.folders() if split_of_folder(each.name) or each.name == _HUB_FOLDER]
    return any(each.files(endings) for each in (folder, *below))


def folder_has_shards(folder: Path, endings: Sequence[str]) -> bool:
    """Return whether a folder on this machine's disk holds such files; see `has_shards`."""
    return has_shards(FolderOnDisk(folder), endings)
