"""New labels, and new names of classes, as users give them: mappings, arrays, and files of them."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from tokenstore.errors import ArgumentError, Parameter, StoreError, did_you_mean
from tokenstore.format import LABELS, MASKS
from tokenstore.reading import SplitReader, TokenStore
from tokenstore.reading.open import StorePath

__all__ = [
    "ClassMap",
    "GivenLabels",
    "Labels",
    "NewLabels",
    "check_label_maps",
    "given_labels",
    "mapped_classes",
    "read_class_map",
    "read_labels",
    "told_apart",
]

Labels: TypeAlias = npt.NDArray[np.int32]
GivenLabels: TypeAlias = Mapping[str, Sequence[int] | npt.NDArray[np.integer]] | Sequence[int] | StorePath
"""Labels by split, the labels of the only split, or the path of a file of labels."""
_MOST_LABEL = 2**31 - 1
_ROWS_AT_ONCE = 2**16
_SOURCE, _LABEL = "source", "label"


@dataclass(frozen=True)
class ClassMap:
    """The classes of a relabelled store: their names, and the new label of each old one."""

    names: tuple[str, ...]
    labels: Labels


@dataclass(frozen=True)
class NewLabels:
    """The labels that a file or an array gives: numbers by split, or numbers or names by source."""

    by_split: Mapping[str, npt.NDArray[Any]] | None = None
    only: npt.NDArray[Any] | None = None
    by_source: pa.Table | None = None

    @property
    def digest(self) -> str:
        """The SHA-256 (hex) of all labels."""
        digest = hashlib.sha256()
        for name, values in (self.by_split or {}).items():
            digest.update(f"{name}:{len(values)}:".encode() + values.astype("<i8").tobytes())
        if self.only is not None:
            digest.update(self.only.astype("<i8").tobytes())
        if self.by_source is not None:
            for batch in self.by_source.to_batches(max_chunksize=_ROWS_AT_ONCE):
                digest.update(json.dumps(batch.to_pydict()).encode())
        return digest.hexdigest()


def mapped_classes(store: TokenStore, mapping: Mapping[str, str]) -> ClassMap:
    """Return the classes of a store after a mapping of names; classes without an entry keep theirs.

    Several classes may become one; those without an entry stay apart, even where two have one name. The new
    classes are in the order in which the old ones first lead to them.
    Raises StoreError for a store without class names, ArgumentError for a name that no class has.
    """
    before = store.class_names
    if before is None:
        raise StoreError(
            f"{store.files.storage}: expected names of classes to map, found none. Give new labels instead"
        )
    for name in mapping:
        if name not in before:
            raise ArgumentError(
                f"{store.files.storage}: no class {name!r:.80}{did_you_mean(name, before)}",
                parameters=[Parameter("class_map")],
            )
    after = [
        (mapping[name], 0) if name in mapping else (name, occurrence)
        for name, occurrence in told_apart(before)
    ]
    classes = list(dict.fromkeys(after))
    number = {each: label for label, each in enumerate(classes)}
    return ClassMap(tuple(name for name, _ in classes), np.array([number[each] for each in after], np.int32))


def told_apart(names: Sequence[str]) -> list[tuple[str, int]]:
    """Return each class as its name and the number of classes before it that have the same name."""
    seen: Counter[str] = Counter()
    classes = []
    for name in names:
        classes.append((name, seen[name]))
        seen[name] += 1
    return classes


def check_label_maps(store: TokenStore, labels: Labels, problem: str) -> None:
    """Raise StoreError where classes get other numbers `labels` (K,), and label maps have the old ones.

    The names of classes are those of a store's labels, or without labels of the values of its label maps.
    """
    columns = {name for split in store.splits for name in store[split].columns}
    if MASKS in columns and LABELS not in columns and not np.array_equal(labels, np.arange(len(labels))):
        raise StoreError(
            f"{store.files.storage}: {problem}, and its label maps would keep the old numbers. Convert its "
            "label maps with the new ones"
        )


def read_class_map(given: Mapping[str, str] | StorePath) -> dict[str, str]:
    """Return a mapping of class names, or the one in a CSV file of two columns, the old and the new name.

    A first line `old,new` is a heading. Raises ArgumentError for another file, and for a name that is mapped
    twice.
    """
    if isinstance(given, Mapping):
        return {str(old): str(new) for old, new in given.items()}
    named = [Parameter("class_map")]
    try:
        with Path(given).open(encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ArgumentError(
            f"class_map: expected a CSV file at {given} ({error})", parameters=named
        ) from error
    if rows and [word.strip().casefold() for word in rows[0]] == ["old", "new"]:
        rows = rows[1:]
    mapping: dict[str, str] = {}
    for row in rows:
        if len(row) != 2 or not row[1].strip():
            raise ArgumentError(
                f"class_map: expected two columns, the old and the new name, in {given}, found {row!r:.80}",
                parameters=named,
            )
        if row[0] in mapping:
            raise ArgumentError(
                f"class_map: expected each old name once in {given}, found {row[0]!r:.80} again",
                parameters=named,
            )
        mapping[row[0]] = row[1]
    if not mapping:
        raise ArgumentError(f"class_map: expected names to map in {given}, found none", parameters=named)
    return mapping


def read_labels(given: GivenLabels) -> NewLabels:
    """Return labels as they are given: arrays, a `.npy` file of them, or a CSV file by source.

    A CSV file has the columns `source` and `label`. Raises ArgumentError for other values and files.
    """
    if isinstance(given, Mapping):
        return NewLabels(by_split={name: _integers(values) for name, values in given.items()})
    if not isinstance(given, str | os.PathLike):
        return NewLabels(only=_integers(given))
    path, named = Path(given), [Parameter("labels")]
    try:
        if path.suffix == ".npy":
            return NewLabels(only=_integers(np.load(path, allow_pickle=False)))
        options = pyarrow.csv.ConvertOptions(
            column_types={_SOURCE: pa.string(), _LABEL: pa.string()}, include_columns=[_SOURCE, _LABEL]
        )
        table = pyarrow.csv.read_csv(path, convert_options=options)
    except ArgumentError:
        raise
    except (OSError, ValueError, KeyError, EOFError, pa.ArrowException) as error:
        raise ArgumentError(
            f"labels: expected a .npy file of integers, or a CSV file with the columns {_SOURCE} and "
            f"{_LABEL}, "
            f"at {path} ({error})",
            parameters=named,
        ) from error
    table = table.combine_chunks()
    if pc.any(pc.equal(pc.utf8_trim_whitespace(table[_LABEL]), "")).as_py():
        row = pc.index(pc.utf8_trim_whitespace(table[_LABEL]), "").as_py()
        raise ArgumentError(
            f"labels: expected a label in every line of {path}, found none for "
            f"{table[_SOURCE][row].as_py()!r:.80}",
            parameters=named,
        )
    repeated = pc.value_counts(table[_SOURCE])
    again = repeated.filter(pc.greater(repeated.field("counts"), 1))
    if len(again):
        raise ArgumentError(
            f"labels: expected each source once in {path}, found {again[0]['values'].as_py()!r:.80} again",
            parameters=named,
        )
    return NewLabels(by_source=table)


def given_labels(store: TokenStore, given: NewLabels) -> tuple[dict[str, Labels], tuple[str, ...] | None]:
    """Return the labels (N,) of each split that new labels are for, and the names of all classes.

    Raises ArgumentError unless every sample of these splits has a label of a class.
    """
    if given.by_source is not None:
        return _by_source(store, given.by_source)
    if given.only is not None:
        if len(store.splits) != 1:
            raise ArgumentError(
                f"labels: expected labels by split for the splits {', '.join(store.splits)}, found one list. "
                "Give a mapping of the splits' names, or a CSV file of sources and labels",
                parameters=[Parameter("labels")],
            )
        arrays: Mapping[str, npt.NDArray[Any]] = {store.splits[0]: given.only}
    else:
        arrays = given.by_split or {}
    labels = {}
    for name, values in arrays.items():
        rows = len(store[name])
        if len(values) != rows:
            raise ArgumentError(
                f"labels: expected {rows} for the split {name}, found {len(values)}",
                parameters=[Parameter("labels")],
            )
        labels[name] = _checked(values, store.class_names, name)
    return labels, store.class_names


def _by_source(store: TokenStore, table: pa.Table) -> tuple[dict[str, Labels], tuple[str, ...] | None]:
    words = table[_LABEL].combine_chunks()
    names = store.class_names
    is_number = pc.all(pc.match_substring_regex(words, r"^[0-9]{1,10}$")).as_py()
    if is_number and not (names and pc.any(pc.is_in(words, pa.array(names, pa.string()))).as_py()):
        values = _checked(words.cast(pa.int64()).to_numpy(zero_copy_only=False), names, "any split")
    else:
        known = names or ()
        _check_single(words, known)
        new = sorted(set(pc.unique(words).to_pylist()) - {*known, None})
        names = (*known, *new)
        indices = pc.index_in(words, pa.array(names, pa.string()))
        values = pc.fill_null(indices, -1).to_numpy(zero_copy_only=False).astype(np.int32)
    sources = table[_SOURCE].combine_chunks()
    return {name: _joined(store[name], sources, values) for name in store.splits}, names


def _check_single(words: pa.Array, names: Sequence[str]) -> None:
    """Raise ArgumentError for a label that is the name of several classes."""
    repeated = [name for name, count in Counter(names).items() if count > 1]
    found = words.filter(pc.is_in(words, pa.array(repeated, pa.string())))
    if len(found):
        raise ArgumentError(
            f"labels: expected names of one class each, found {found[0].as_py()!r:.80}, that of "
            f"{names.count(found[0].as_py())} classes. Give the numbers of all labels instead",
            parameters=[Parameter("labels")],
        )


def _joined(split: SplitReader, sources: pa.Array, values: Labels) -> Labels:
    labels, at = np.empty(len(split), np.int32), 0
    for batch in split.samples_batches():
        places = pc.fill_null(pc.index_in(batch.column(_SOURCE), sources), -1).to_numpy(zero_copy_only=False)
        part = np.where(places < 0, -1, values[places])
        if len(part) and part.min() < 0:
            row = int(np.argmin(part))
            name = batch.column(_SOURCE)[row].as_py()
            raise ArgumentError(
                f"labels: expected a label for every sample, found none for {name!r:.200}, row {at + row} "
                "of the "
                f"split {split.name}",
                parameters=[Parameter("labels")],
            )
        labels[at : at + len(part)] = part
        at += len(part)
    return labels


def _integers(values: Any) -> npt.NDArray[Any]:
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "ui":
        raise ArgumentError(
            f"labels: expected integers of shape (N,), found {array.dtype} of shape {array.shape}",
            parameters=[Parameter("labels")],
        )
    return array


def _checked(values: npt.NDArray[Any], names: tuple[str, ...] | None, where: str) -> Labels:
    most = _MOST_LABEL if names is None else len(names) - 1
    wrong = (values < 0) | (values > most)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ArgumentError(
            f"labels: expected labels from 0 to {most}, found {values[row]} at {row} of {where}",
            parameters=[Parameter("labels")],
        )
    return values.astype(np.int32)
