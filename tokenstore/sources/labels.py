"""The labels of samples: class names to numbers, and the checks that every source makes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenstore.errors import SourceError
from tokenstore.sources.base import Labels
from tokenstore.sources.names import first_indices, printable

__all__ = ["ClassIds", "Listing", "check_class_range", "check_labels", "label_splits", "parse_label"]

_MAX_LABEL = int(np.iinfo(np.int32).max)
_INTEGER = re.compile(rb"(-?[0-9]+)(?:\.0*)?")
"""A whole number, also as the float that pandas makes of a column with gaps."""
_MAX_DIGITS = 18
"""The digits of a number that certainly fits 64 bits; longer ones are no labels, and slow to parse."""


@dataclass
class ClassIds:
    """The ids of class names in the order they were met, until all names are known and can be sorted."""

    _ids: dict[bytes, int] = field(default_factory=dict)

    def __getitem__(self, name: bytes) -> int:
        return self._ids.setdefault(name, len(self._ids))

    def __bool__(self) -> bool:
        return bool(self._ids)

    def sorted_names(self) -> tuple[str, ...]:
        """Return printable names, sorted by their bytes; raise SourceError if two would print the same."""
        names = tuple(printable(name) for name in sorted(self._ids))
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise SourceError(f"two classes print as {twice!r}; rename the one that is not UTF-8")
        return names

    def final_labels(self, ids: npt.NDArray[np.integer]) -> Labels:
        """Return labels (N,) int32 that index `sorted_names`, from the ids given out (N,)."""
        rank = np.empty(len(self._ids), np.int32)
        for label, name in enumerate(sorted(self._ids)):
            rank[self._ids[name]] = label
        labels: Labels = rank[ids]
        return labels


@dataclass(frozen=True)
class Listing:
    """The names of samples, `pa.binary()`, and their labels (N,) int32 where the samples have labels."""

    names: pa.ChunkedArray
    labels: Labels | None

    def __len__(self) -> int:
        return len(self.names)


def check_labels(labels: npt.NDArray[np.generic], where: str) -> Labels:
    """Return integers (N,) as int32; raise SourceError for other types, negative and too large labels."""
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise SourceError(
            f"{where}: expected labels as one row of integers, found {labels.dtype} {labels.shape}"
        )
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

    Raises SourceError for numbers that cannot be labels and for empty texts.
    """
    together = pa.chunked_array([chunk for column in texts.values() for chunk in column.chunks], pa.binary())
    unique = together.unique()
    words = [text.strip() for text in unique.to_pylist()]
    at = first_indices(together, unique)
    class_names = None
    numbers = [_INTEGER.fullmatch(word) for word in words] if may_be_numbers else [None]
    if all(numbers):
        integers = [parse_label(number[1], where) for number in numbers if number]
        labels = check_labels(np.array(integers, np.int64), where)[at]
    elif b"" in words:
        raise SourceError(f"{where}: sample {int(np.argmax(at == words.index(b'')))} has an empty label")
    else:
        classes = ClassIds()
        ids = np.array([classes[word] for word in words], np.int32)
        labels, class_names = classes.final_labels(ids)[at], classes.sorted_names()
    ends = np.cumsum([len(column) for column in texts.values()])
    return dict(zip(texts, np.split(labels, ends[:-1]), strict=True)), class_names
