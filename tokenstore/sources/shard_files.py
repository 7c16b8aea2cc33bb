"""The files of a sharded source: from a path, a pattern or a folder to the shards of each split."""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenstore.errors import SourceError
from tokenstore.sources.split_names import (
    DEFAULT_SPLIT,
    group_files,
    group_folders,
    in_usual_order,
    renamed_splits,
    split_of_file,
    split_of_folder,
)

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"([0-9]+)\.\.([0-9]+)")
_HUB_FOLDER = "data"
"""The folder in which data sets on the Hugging Face hub keep their files."""


@dataclass(frozen=True)
class Shards:
    """The files of each split."""

    splits: dict[str, tuple[Path, ...]]
    named: bool
    """True if the names of files or folders say the splits, False if all files are in the default split."""
    notes: tuple[str, ...] = ()
    """Remarks on splits that are named otherwise than their files."""


def find_shards(location: str | Path, endings: Sequence[str]) -> Shards:
    """Find the files that a path, a brace or wildcard pattern, or a folder stands for.

    A folder holds files with one of the endings, or folders named after splits that hold such files.

    Raises SourceError if there are no files, or if names do not say the split of each.
    """
    path, where = Path(location), str(location)
    if path.is_dir():
        return _shards_in_folder(path, endings)
    files = [path] if path.is_file() else _matching(where)
    by_name = {file.name: file for file in files}
    return _shards(by_name, where, DEFAULT_SPLIT)


def is_pattern(location: str) -> bool:
    """Return whether a name holds braces or wildcards."""
    return glob.has_magic(location) or _BRACES.search(location) is not None


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


def files_ending(folder: Path, endings: Sequence[str]) -> list[Path]:
    """List the files directly in a folder, sorted by name, hidden ones left out.

    Raises SourceError if the folder cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted(folder / entry.name for entry in entries if _is_file_ending(entry, endings))
    except OSError as error:
        raise SourceError(f"{folder}: cannot be listed: {error.strerror}") from error


def _is_file_ending(entry: os.DirEntry[str], endings: Sequence[str]) -> bool:
    name = entry.name.lower()
    return name.endswith(tuple(endings)) and not name.startswith(".") and entry.is_file()


def _matching(pattern: str) -> list[Path]:
    files: list[Path] = []
    missing = []
    for name in expand_braces(pattern):
        anchor = Path(name).anchor
        matches = Path(anchor).glob(name.removeprefix(anchor)) if glob.has_magic(name) else [Path(name)]
        existing = sorted(match for match in matches if match.is_file())
        files += existing
        missing += [] if existing else [name]
    if missing:
        raise SourceError(f"{pattern}: {len(missing)} files not found (first: {missing[0]})")
    return files


def _shards_in_folder(folder: Path, endings: Sequence[str]) -> Shards:
    direct = files_ending(folder, endings)
    below = {
        path.name: files
        for path in sorted(folder.iterdir())
        if path.is_dir() and not path.name.startswith(".") and (files := files_ending(path, endings))
    }
    splits = group_folders(list(below), str(folder))
    if splits is not None and direct:
        raise SourceError(
            f"{folder}: file {direct[0].name!r} lies beside split folder {next(iter(below))!r}; move it away"
        )
    if splits:
        by_split = {split: tuple(below[splits[split]]) for split in in_usual_order(splits)}
        return Shards(by_split, named=True, notes=renamed_splits(splits.values()))
    if not direct and _HUB_FOLDER in below:
        return _shards_in_folder(folder / _HUB_FOLDER, endings)
    if not direct:
        raise SourceError(f"{folder}: no files ending in {' or '.join(endings)}, nor split folders of them")
    by_name = {path.name: path for path in direct}
    return _shards(by_name, str(folder), split_of_folder(folder.resolve().name) or DEFAULT_SPLIT)


def _shards(by_name: dict[str, Path], where: str, fallback: str) -> Shards:
    grouped = group_files(by_name, where, fallback)
    splits = {split: tuple(by_name[name] for name in grouped[split]) for split in in_usual_order(grouped)}
    named = split_of_file(next(iter(by_name))) is not None
    return Shards(splits, named, renamed_splits(by_name) if named else ())


def has_shards(folder: Path, endings: Sequence[str]) -> bool:
    """Return whether a folder, or one of its folders of splits, holds files with one of the endings."""
    below = [path for path in folder.iterdir() if split_of_folder(path.name) or path.name == _HUB_FOLDER]
    return any(files_ending(path, endings) for path in (folder, *below) if path.is_dir())
