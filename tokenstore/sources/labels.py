"""The labels of samples: class names to numbers, and the checks that every source makes."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenstore.errors import Parameter, SourceError
from tokenstore.sources.base import Labels
from tokenstore.sources.class_words import NoClassesError, check_class_words
from tokenstore.sources.names import first_indices, printable

__all__ = [
    "LABEL_NAMES",
    "ClassIds",
    "LabelledImages",
    "Listing",
    "check_class_range",
    "check_label_kind",
    "check_labels",
    "label_splits",
    "label_words",
    "looks_like_label",
    "parse_label",
]

LABEL_NAMES = (
    *("label", "labels", "cls", "class", "target", "targets", "fine_label", "class_label", "label_id"),
    *("class_id", "class_name", "label_name", "category", "category_id", "coarse_label"),
)
"""The names of columns and keys that hold labels, best first, in lower case."""
_LIKE_LABEL = re.compile(r"label|class|target|categor|species|breed|(^|_)cls($|_)|^y$", re.IGNORECASE)
_MAX_LABEL = int(np.iinfo(np.int32).max)
_INTEGER = re.compile(rb"(-?[0-9]+)(?:\.0*)?")
"""A whole number, also as the float that pandas makes of a column with gaps."""
_MAX_DIGITS = 18
"""The digits of a number that certainly fits 64 bits; longer ones are no labels, and slow to parse."""


def looks_like_label(name: str) -> bool:
    """Return whether a column, key or file of that name may hold labels."""
    return _LIKE_LABEL.search(name) is not None


@dataclass
class ClassIds:
    """The ids of class names in the order they were met, until all names are known and can be sorted.

    Names that differ only in how Unicode writes accents are one class.
    """

    _ids: dict[bytes, int] = field(default_factory=dict)
    """The id of each name that was met; forms of one name share an id."""
    _names: dict[bytes, bytes] = field(default_factory=dict)
    """The name of each class by its composed form."""

    def __getitem__(self, name: bytes) -> int:
        known = self._ids.get(name)
        if known is not None:
            return known
        form = _composed(name)
        if form in self._names:
            known = self._ids[name] = self._ids[self._names[form]]
            self._names[form] = min(name, self._names[form])
            return known
        self._names[form] = name
        return self._ids.setdefault(name, len(self._names) - 1)

    def __contains__(self, name: bytes) -> bool:
        return _composed(name) in self._names

    def __bool__(self) -> bool:
        return bool(self._ids)

    def merged(self) -> tuple[str, ...]:
        """Return the names that were met in two forms."""
        forms = set(self._names.values())
        return tuple(sorted(printable(_composed(name)) for name in self._ids if name not in forms))

    def sorted_names(self) -> tuple[str, ...]:
        """Return printable names, sorted by their bytes; raise SourceError if two would print the same."""
        names = tuple(printable(name) for name in self._sorted())
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise SourceError(f"two classes print as {twice!r}; rename the one that is not UTF-8")
        return names

    def final_labels(self, ids: npt.NDArray[np.integer]) -> Labels:
        """Return labels (N,) int32 that index `sorted_names`, from the ids given out (N,)."""
        rank = np.empty(len(self._names), np.int32)
        for label, name in enumerate(self._sorted()):
            rank[self._ids[name]] = label
        labels: Labels = rank[ids]
        return labels

    def _sorted(self) -> list[bytes]:
        return sorted(self._names.values())


def _composed(name: bytes) -> bytes:
    """Return the form NFC of a name, or the name itself if it is not UTF-8."""
    if name.isascii():
        return name
    try:
        return unicodedata.normalize("NFC", name.decode()).encode()
    except UnicodeDecodeError:
        return name


@dataclass(frozen=True)
class Listing:
    """The names of samples, `pa.binary()`, and their labels (N,) int32 where the samples have labels."""

    names: pa.ChunkedArray
    labels: Labels | None

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class LabelledImages:
    """The images of every split with their labels, and the names of the classes."""

    listings: dict[str, Listing]
    class_names: tuple[str, ...] | None
    notes: list[str]


def check_label_kind(dtype: np.dtype[np.generic], shape: tuple[int, ...], where: str) -> None:
    """Raise SourceError for arrays, read or not, that are no row of integers (N,)."""
    if dtype.kind not in "iu" or len(shape) != 1:
        raise SourceError(f"{where}: expected labels as one row of integers, found {dtype} {shape}")


def check_labels(labels: npt.NDArray[np.generic], where: str) -> Labels:
    """Return integers (N,) as int32; raise SourceError for other types, negative and too large labels."""
    check_label_kind(labels.dtype, labels.shape, where)
    if labels.size:
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high > _MAX_LABEL:
            bad = int(np.argmax((labels < 0) | (labels > _MAX_LABEL)))  # type: ignore[operator]
            raise SourceError(
                f"{where}: expected labels 0..{_MAX_LABEL}, found {labels[bad]} at sample {bad}"
            )
    return labels.astype(np.int32)


def parse_label(digits: bytes | str, where: str) -> int:
    """Return the number that digits stand for; raise SourceError for more digits than any label has."""
    if len(digits) > _MAX_DIGITS:
        start = digits[:_MAX_DIGITS]
        shown = start if isinstance(start, str) else printable(start)
        raise SourceError(
            f"{where}: expected labels 0..{_MAX_LABEL}, found a number of {len(digits)} digits, {shown}..."
        )
    return int(digits)


def check_class_range(labels: Mapping[str, Labels], class_names: tuple[str, ...] | None, where: str) -> None:
    """Raise SourceError where a label of some split has no class name."""
    for split, column in labels.items():
        if class_names is not None and column.size and int(column.max()) >= len(class_names):
            sample = int(np.argmax(column >= len(class_names)))
            raise SourceError(
                f"{where}: split {split}: sample {sample} has label {column[sample]}, but there are only "
                f"{len(class_names)} class names"
            )


def label_splits(
    texts: Mapping[str, pa.ChunkedArray], where: str, may_be_numbers: bool = True
) -> tuple[dict[str, Labels], tuple[str, ...] | None]:
    """Return labels (N,) int32 of each split from `pa.binary()` texts, and the class names that they index.

    The names are those of all splits, sorted. If all texts are integers and they `may_be_numbers`, the
    integers are the labels, and the names are None.

    Raises SourceError for numbers that cannot be labels, for texts that are no classes, and for empty ones.
    """
    together = pa.chunked_array([chunk for column in texts.values() for chunk in column.chunks], pa.binary())
    unique = together.unique()
    ends = np.cumsum([len(column) for column in texts.values()])
    words = np.split(first_indices(together, unique), ends[:-1])
    try:
        return label_words(dict(zip(texts, words, strict=True)), unique.to_pylist(), where, may_be_numbers)
    except NoClassesError as error:
        bare = Parameter("no_labels", True)
        raise NoClassesError(
            f"{error}. Labels are classes alone: {bare} stores the images without them, and the samples "
            "table has each image's name to join a table of other targets by",
            parameters=[bare],
        ) from error


def label_words(
    ids: Mapping[str, npt.NDArray[np.integer]],
    words: Sequence[bytes],
    where: str,
    may_be_numbers: bool = True,
) -> tuple[dict[str, Labels], tuple[str, ...] | None]:
    """Return labels and class names as `label_splits` does, from each split's indices (N,) of texts.

    Raises SourceError as `label_splits` does, NoClassesError for texts that are no classes.
    """
    words = [word.strip() for word in words]
    numbers = [_INTEGER.fullmatch(word) for word in words] if may_be_numbers else [None]
    if all(numbers):
        whole = [match[1] for match in numbers if match is not None]
        labels = check_labels(np.array([parse_label(number, where) for number in whole], np.int64), where)
        return {split: labels[at] for split, at in ids.items()}, None
    if b"" in words:
        empty = words.index(b"")
        for split, at in ids.items():
            if (at == empty).any():
                named = f"{where}: split {split}" if split else where
                raise SourceError(f"{named}: sample {int(np.argmax(at == empty))} has an empty label")
    if may_be_numbers:
        check_class_words(words, where)
    classes = ClassIds()
    of_words = np.array([classes[word] for word in words], np.int32)
    labels = classes.final_labels(of_words)
    return {split: labels[at] for split, at in ids.items()}, classes.sorted_names()
