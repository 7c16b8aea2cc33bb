"""The samples in a group of members that share a key: which member is an image, and which its label.

The key of WebDataset ends at the first dot of the base name, and the rest is the member's ending. Names with
further dots (`v1.0.jpg` and `v1.0.cls`) fit the same rule: one group, whose endings are `0.jpg` and `0.cls`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import NamedTuple

from tokenstore.errors import SourceError
from tokenstore.sources.files import SourceFile
from tokenstore.sources.images import EXTENSIONS
from tokenstore.sources.labels import looks_like_label
from tokenstore.sources.layouts.rows import TOKEN_NAMES
from tokenstore.sources.names import printable
from tokenstore.sources.tar_headers import Member

__all__ = [
    "JSON",
    "Group",
    "GroupSample",
    "code_ending",
    "looks_like_labels",
    "looks_like_sample",
    "sample_of",
    "samples_of_group",
]

PREFERRED = ("jpg", "jpeg", "png", "webp")
"""The endings of images in order of preference, for samples with several; others come after, by name."""

_TEXTS = ("cls", "label", "class", "cls.txt", "label.txt", "class.txt")
"""The endings of members whose text is a label, in order of preference."""
JSON = "json"
_ARRAY = "npy"
_RANKS = {word: rank for rank, word in enumerate((*_TEXTS, JSON))}
_NUMBERS = re.compile(r"[0-9.]+")
_WORDS = re.compile(r"[^a-z_]+")

Group = Mapping[str, Member]
"""The members of one key by their endings in lower case, in the order of the file."""


class GroupSample(NamedTuple):
    """A sample of a group: the ending of its image, and those that its label may have."""

    image: str
    labels: list[str]
    """The endings of the members that hold the label, the first preferred."""
    is_one_of_several: bool

    def member(self, word: str, group: Group) -> str | None:
        """Return the ending of the sample's member that ends in a word, or None."""
        starts = _starts(self.image, self.is_one_of_several)
        return next((f"{start}{word}" for start in starts if f"{start}{word}" in group), None)


def looks_like_labels(name: str) -> bool:
    """Return whether a member's ending, or the key of a JSON object, has a word for labels in it."""
    return any(map(looks_like_label, _WORDS.split(name.lower())))


def looks_like_sample(ending: str) -> bool:
    """Return whether a member's ending is that of an image, or of what may hold a label."""
    return ending.rpartition(".")[2] in (*EXTENSIONS, JSON) or looks_like_labels(ending)


def samples_of_group(group: Group, key: bytes, tar: SourceFile) -> tuple[list[GroupSample], list[str]]:
    """Return the samples of a group, and the endings of images that others go before.

    An image of the plain ending goes before those with further dots. Several of the latter are samples of
    their own if each has its own label, or if only numbers differ in their names and nothing belongs to all.

    Raises SourceError for other groups with several images.
    """
    stems: dict[str, list[str]] = {}
    for ending in group:
        stem, _, format = ending.rpartition(".")
        if format in EXTENSIONS:
            stems.setdefault(stem, []).append(ending)
    if "" in stems:
        stems = {"": stems[""]}
    several = len(stems) > 1
    if several and not _are_samples(stems, group):
        shown = " and .".join(endings[0] for endings in list(stems.values())[:3])
        raise SourceError(
            f"{tar}: sample {printable(key)!r}: expected one image, found .{shown}; name one .jpg, or give "
            f"each its own label, such as .{next(iter(stems))}.cls"
        )
    samples, others = [], []
    for endings in stems.values():
        if len(endings) > 1:
            endings.sort(key=_preference)
        samples.append(GroupSample(endings[0], _labels(endings[0], group, several), several))
        others += endings[1:]
    return samples, others


def sample_of(ending: str, group: Group, key: bytes, tar: SourceFile) -> GroupSample:
    """Return the sample whose member of an ending holds its codes; raise SourceError for a group without."""
    if ending not in group:
        raise SourceError(f"{tar}: sample {printable(key)!r} has no member .{ending}, unlike the first one")
    return GroupSample(ending, _labels(ending, group, False), False)


def code_ending(group: Group, given: str | None) -> str:
    """Return the ending of the members that hold codes, by the first group of a tar file; "" for images.

    `given` is the name that the user gives, without `.npy` or with it. Without one, groups are codes if the
    first has no image, and a member named `tokens.npy` or by another of `TOKEN_NAMES`.
    """
    if given is not None:
        return given.lower() if given.lower().endswith(f".{_ARRAY}") else f"{given.lower()}.{_ARRAY}"
    if any(ending.rpartition(".")[2] in EXTENSIONS for ending in group):
        return ""
    return next((f"{name}.{_ARRAY}" for name in TOKEN_NAMES if f"{name}.{_ARRAY}" in group), "")


def _preference(ending: str) -> tuple[int, str]:
    format = ending.rpartition(".")[2]
    return (PREFERRED.index(format) if format in PREFERRED else len(PREFERRED), ending)


def _are_samples(stems: Mapping[str, list[str]], group: Group) -> bool:
    """Return whether images of one key are samples of their own, by what else the key has."""
    if all(_labels(ending, group, True) for endings in stems.values() for ending in endings[:1]):
        return True
    return all(map(_NUMBERS.fullmatch, stems)) and all(_begins_with_one(ending, stems) for ending in group)


def _begins_with_one(ending: str, stems: Mapping[str, list[str]]) -> bool:
    return any(ending[:place] in stems for place, sign in enumerate(ending) if sign == ".")


def _labels(image: str, group: Group, several: bool) -> list[str]:
    """Return the endings in a group that a label of the image may have: `cls`, then those with its name."""
    # a group can have many thousands of members: those with a label's name are looked up
    ranks = {
        f"{start}{word}": (rank, place)
        for place, start in enumerate(_starts(image, several))
        for word, rank in _RANKS.items()
        if f"{start}{word}" in group
    }
    return sorted(ranks, key=ranks.__getitem__) if len(ranks) > 1 else list(ranks)


@functools.lru_cache(1024)
def _starts(image: str, several: bool) -> tuple[str, ...]:
    """Return what may stand before the word for a label, in order of preference."""
    stem = image.rpartition(".")[0]
    return (*(() if several else ("",)), *((f"{stem}.",) if stem else ()), f"{image}.")
