"""The rule by which names of folders and shards say their split, one for all sources."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from tokenstore.errors import SourceError

DEFAULT_SPLIT = "train"
"""The split of a source whose names do not say one."""

_SPLIT_OF_WORD = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
_WORD_IN_STEM = re.compile(rf"(?:^|[-_.])({'|'.join(_SPLIT_OF_WORD)})(?=[-_.0-9]|$)", re.IGNORECASE)


def split_of_folder(name: str) -> str | None:
    """Return the split that a folder's name says: train, val (or `valid`, `validation`), test; else None."""
    return _SPLIT_OF_WORD.get(name.lower())


def split_of_file(name: str) -> str | None:
    """Return the split that a shard's name says, such as `train-0001.tar` or `cats_val_3.tar`; else None."""
    match = _WORD_IN_STEM.search(name)
    return None if match is None else _SPLIT_OF_WORD[match[1].lower()]


def group_folders(names: Sequence[str], where: str) -> Mapping[str, str] | None:
    """Return the folder of each split if all names are names of splits, or None if none is.

    Raises SourceError if only some are, as folders of splits cannot be told from classes then, and if two
    folders are of one split.
    """
    splits = {name: split_of_folder(name) for name in names}
    others = [name for name, split in splits.items() if split is None]
    if len(others) == len(names):
        return None
    if others:
        named = next(name for name, split in splits.items() if split)
        raise SourceError(
            f"{where}: folder {named!r} is named like a split but {others[0]!r} is not, so it is unclear "
            "whether these folders are splits or classes; keep the splits alone in their folder, or "
            "give the classes in a labels file"
        )
    grouped: dict[str, str] = {}
    for name, split in splits.items():
        assert split is not None
        if split in grouped:
            raise SourceError(f"{where}: folders {grouped[split]!r} and {name!r} are both split {split}")
        grouped[split] = name
    return grouped


def group_files(names: Iterable[str], where: str, fallback: str = DEFAULT_SPLIT) -> dict[str, list[str]]:
    """Group file names by the split that they say, in the given order; all in `fallback` if none says one.

    Raises SourceError if some files name a split and others do not.
    """
    grouped: dict[str | None, list[str]] = {}
    for name in names:
        grouped.setdefault(split_of_file(name), []).append(name)
    silent = grouped.pop(None, [])
    if silent and grouped:
        named = next(iter(grouped.values()))[0]
        raise SourceError(
            f"{where}: file {named!r} names its split but {silent[0]!r} does not; rename the files or "
            "sort them into folders named after their splits"
        )
    return {fallback: silent} if silent else {str(split): files for split, files in grouped.items()}


def renamed_splits(names: Iterable[str]) -> tuple[str, ...]:
    """Return a note for each word in names of folders or files that is another split, as `validation` is."""
    words = {match[1].lower() for match in map(_WORD_IN_STEM.search, names) if match is not None}
    return tuple(
        f"{word} is split {_SPLIT_OF_WORD[word]}" for word in sorted(words) if _SPLIT_OF_WORD[word] != word
    )


def in_usual_order(splits: Iterable[str]) -> list[str]:
    """Return the splits in order: train, val, test, then any others by name."""
    usual = list(dict.fromkeys(_SPLIT_OF_WORD.values()))
    return sorted(splits, key=lambda split: (usual.index(split) if split in usual else len(usual), split))
