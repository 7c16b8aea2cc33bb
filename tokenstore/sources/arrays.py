"""The source of arrays of ready codes: a `.npy` or `.npz` file, or a folder with a file for each split.

codes.npy, codes-labels.npy      codes (N, *grid) and, optionally, labels (N,)
codes.npz                        `tokens` or `codes`, optionally `labels`, `class_names`, `codebook`, and
                                 any further columns of N rows
folder/train.npy, folder/val.npy, folder/train-labels.npy ..., or folder/train.npz, folder/val.npz;
                                 and for all splits folder/class_names.npy and folder/codebook.npy
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from typing_extensions import override

from tokenstore.errors import SourceError
from tokenstore.sources.array_columns import array_column
from tokenstore.sources.base import CodeSource, CodeSplit, Labels, SourceColumn
from tokenstore.sources.code_values import MOST_CODES, check_shape, unsigned_codes
from tokenstore.sources.folders import files_ending
from tokenstore.sources.further import missing_field, not_used, requested_fields
from tokenstore.sources.labels import check_class_range, check_label_kind, check_labels, looks_like_label
from tokenstore.sources.layouts.loose_arrays import latents_advice
from tokenstore.sources.names import check_range, digest
from tokenstore.sources.npy_files import StoredArray, check_characters, open_npy, open_npz
from tokenstore.sources.registry import SourceKind
from tokenstore.sources.split_names import DEFAULT_SPLIT, group_files, in_usual_order, split_of_file

ENDINGS = (".npy", ".npz")

_CODES = ("tokens", "codes")
_LABELS, _CLASS_NAMES, _CODEBOOK = "labels", "class_names", "codebook"
_LABEL_ENDINGS = ("-labels", "_labels")
_Value = TypeVar("_Value", tuple[str, ...], npt.NDArray[np.float32])
_MOST_CODEBOOK_NBYTES = 2**30


@dataclass(frozen=True)
class ArraySplit(CodeSplit):
    """The rows of one array of codes, and further arrays aligned with them."""

    name: str
    stored: StoredArray
    all_labels: Labels | None
    further: Mapping[str, StoredArray]

    @property
    @override
    def columns(self) -> Mapping[str, tuple[np.dtype[np.generic], tuple[int, ...]]]:
        return {
            name: (array.dtype.newbyteorder("="), array.shape[1:]) for name, array in self.further.items()
        }

    @override
    def __len__(self) -> int:
        return len(self.stored)

    @override
    def names(self, start: int, stop: int) -> pa.Array:
        check_range(start, stop, len(self))
        return pa.array([f"{self.name}[{row}]" for row in range(start, stop)], pa.string())

    @override
    def labels(self, start: int, stop: int) -> Labels | None:
        check_range(start, stop, len(self))
        return None if self.all_labels is None else self.all_labels[start:stop]

    @override
    def fingerprint(self) -> str:
        arrays = {"": self.stored, **self.further}
        values = repr([(name, array.fingerprint()) for name, array in sorted(arrays.items())])
        return digest(self.name, values, self.all_labels)

    @override
    def codes(self, start: int, stop: int) -> npt.NDArray[np.unsignedinteger]:
        """Return codes (stop - start, *grid): as stored if unsigned, else in the smallest type that fits.

        Raises SourceError for codes below 0 or of more than 31 bits.
        """
        check_range(start, stop, len(self))
        return unsigned_codes(self.stored.rows(start, stop), start, self.stored.where)

    @override
    def column(self, name: str, start: int, stop: int) -> npt.NDArray[np.generic]:
        check_range(start, stop, len(self))
        return self.further[name].rows(start, stop)


@dataclass(frozen=True)
class _SplitContents:
    """The contents of one split's files."""

    split: ArraySplit
    class_names: tuple[str, ...] | None
    codebook: npt.NDArray[np.float32] | None
    notes: tuple[str, ...]
    unused_labels: tuple[str, ...]
    chosen: Mapping[str, SourceColumn] = field(default_factory=dict)
    """The columns that were asked for."""


def open_arrays(location: str | Path, *, columns: Sequence[str] | None = None) -> CodeSource:
    """Open arrays of codes (N, *grid) of any integer type.

    `columns` chooses further columns: arrays of an archive, or files beside a `.npy` file, such as
    `train-caption.npy`; `NAME=ARRAY` gives one another name in the store. By default all arrays of numbers in
    an archive are.

    Raises SourceError for arrays of other types, for labels that do not go with the codes, and where splits
    differ in grid, codebook or class names. The codes themselves are checked as they are read.
    """
    fields = requested_fields(columns, str(location))
    files, unused = _files(Path(location), tuple(fields.values()))
    opened = {split: _open_split(files[split], fields) for split in in_usual_order(files)}
    splits = {split: one.split for split, one in opened.items()}
    grids = {split: one.stored.shape[1:] for split, one in splits.items()}
    if len(set(grids.values())) > 1:
        raise SourceError(f"{location}: splits differ in their grids: {grids}")
    names = _of_folder(Path(location), _CLASS_NAMES)
    all_names = [
        None if names is None else _class_names(names),
        *(one.class_names for one in opened.values()),
    ]
    class_names = _agreed(all_names, _CLASS_NAMES, str(location))
    codebooks = [folder_codebook(Path(location)), *(one.codebook for one in opened.values())]
    codebook = _agreed(codebooks, _CODEBOOK, str(location))
    labels = {split: one.all_labels for split, one in splits.items() if one.all_labels is not None}
    check_class_range(labels, class_names, str(location))
    return CodeSource(
        kind="array",
        location=str(location),
        splits=splits,
        grid=next(iter(grids.values())),
        codebook=codebook,
        class_names=class_names,
        notes=(*unused, *dict.fromkeys(note for one in opened.values() for note in one.notes)),
        unused_labels=tuple(dict.fromkeys(note for one in opened.values() for note in one.unused_labels)),
        further={split: one.chosen for split, one in opened.items() if one.chosen},
    )


def folder_codebook(folder: Path) -> npt.NDArray[np.float32] | None:
    """Return the vectors in the file `codebook.npy` of a folder, if any; raise SourceError for others."""
    vectors = _of_folder(folder, _CODEBOOK)
    return None if vectors is None else _codebook(vectors)


def is_array_folder(folder: Path) -> bool:
    """Return whether a folder holds arrays named after splits."""
    return any(split_of_file(path.name) is not None for path in files_ending(folder, ENDINGS))


def _files(location: Path, columns: tuple[str, ...]) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Return the file of codes of each split, and notes on files that are not used.

    Files of labels and `columns` are no codes, nor is `train-masks.npy` beside `train.npy`.
    """
    if not location.is_dir():
        return {split_of_file(location.name) or DEFAULT_SPLIT: location}, ()
    beside = (*_LABEL_ENDINGS, *(f"{sign}{column}" for column in columns for sign in "-_"))
    names = [path.name for path in files_ending(location, ENDINGS) if not path.stem.endswith(beside)]
    names = [name for name in names if split_of_file(name) is not None]
    if not names:
        raise SourceError(f"{location}: no arrays named after splits, such as train.npy or val.npz")
    stems = {Path(name).stem for name in names}
    further = [name for name in names if any(Path(name).stem.startswith((f"{s}-", f"{s}_")) for s in stems)]
    files = {}
    for split, of_split in group_files(
        [name for name in names if name not in further], str(location)
    ).items():
        if len(of_split) > 1:
            raise SourceError(f"{location}: {of_split[0]!r} and {of_split[1]!r} are both split {split}")
        files[split] = location / of_split[0]
    return files, not_used("files", further)


def _of_folder(location: Path, name: str) -> StoredArray | None:
    """Open the file of all splits of a folder, if there is one."""
    path = location / f"{name}.npy"
    return open_npy(path) if location.is_dir() and path.is_file() else None


def _open_split(path: Path, fields: Mapping[str, str]) -> _SplitContents:
    """Read one split's file, for `.npy` the file of labels beside it, and the further columns `fields`."""
    if path.suffix.lower() == ".npy":
        beside = [path.with_name(f"{path.stem}{ending}.npy") for ending in _LABEL_ENDINGS]
        labels = [open_npy(labels_path) for labels_path in beside if labels_path.exists()]
        contents = _contents(path, open_npy(path), dict(zip([_LABELS], labels, strict=False)))
        named = {name: _beside(path, name) for name in fields.values()}
        contents = _with_columns(contents, fields, named, path)
        return contents if labels else replace(contents, unused_labels=_unused_files(path))
    arrays = open_npz(path)
    others = [name for name in arrays if name not in (_LABELS, _CLASS_NAMES, _CODEBOOK)]
    name = next((name for name in _CODES if name in arrays), others[0] if len(others) == 1 else None)
    if name is None:
        latents = [each for each in others if arrays[each].dtype.kind == "f" and len(arrays[each].shape) > 1]
        if latents and latents == others:
            facts = f"{latents[0]!r}, {arrays[latents[0]].dtype} {arrays[latents[0]].shape}"
            raise SourceError(f"{path}: expected codes, found {latents_advice(f'the array {facts}')}")
        raise SourceError(
            f"{path}: expected an array {' or '.join(_CODES)}, found {', '.join(arrays) or 'none'}"
        )
    codes = arrays.pop(name)
    return _with_columns(_contents(path, codes, dict(arrays)), fields, arrays, path)


def _beside(path: Path, name: str) -> StoredArray:
    """Open the file of a further column beside a file of codes."""
    places = [path.with_name(f"{path.stem}{sign}{name}.npy") for sign in "-_"]
    existing = next((place for place in places if place.exists()), None)
    if existing is None:
        raise SourceError(f"{places[0]}: no such file, for the column {name!r}")
    return open_npy(existing)


def _with_columns(
    contents: _SplitContents, fields: Mapping[str, str], arrays: Mapping[str, StoredArray], path: Path
) -> _SplitContents:
    """Return the contents with the columns that were asked for, and then no others."""
    if not fields:
        return contents
    chosen: dict[str, SourceColumn] = {}
    for name, array in fields.items():
        if array not in arrays:
            raise missing_field(str(path), array, list(arrays))
        chosen[name] = array_column(arrays[array], len(contents.split))
    used = {*fields.values(), _LABELS, _CLASS_NAMES, _CODEBOOK}
    rest = [array for array in arrays if array not in used]
    notes = not_used("arrays", rest)
    return replace(contents, split=replace(contents.split, further={}), chosen=chosen, notes=notes)


def _contents(path: Path, codes: StoredArray, others: dict[str, StoredArray]) -> _SplitContents:
    check_shape(codes.dtype, codes.shape, codes.where)
    labels = others.pop(_LABELS, None)
    if labels is not None and len(labels) != len(codes):
        raise SourceError(f"{labels.where}: {len(labels)} labels for {len(codes)} samples")
    class_names, codebook = others.pop(_CLASS_NAMES, None), others.pop(_CODEBOOK, None)
    further = {
        name: array
        for name, array in others.items()
        if len(array) == len(codes)
        and array.dtype.kind in "biuf"
        and 0 < math.prod(array.shape[1:]) <= MOST_CODES
    }
    notes = tuple(
        f"array {name} skipped: {array.dtype} {array.shape} is no column of numbers, one a sample"
        for name, array in others.items()
        if name not in further
    )
    return _SplitContents(
        ArraySplit(path.name, codes, None if labels is None else _labels(labels), further),
        None if class_names is None else _class_names(class_names),
        None if codebook is None else _codebook(codebook),
        notes,
        () if labels is not None else _unused_arrays(others),
    )


def _unused_files(path: Path) -> tuple[str, ...]:
    """Return notes on the files beside a file of codes that look like its labels."""
    files = files_ending(path.parent, (".npy", ".txt", ".csv"))
    stems = {file.stem for file in files}
    return tuple(
        f"{file.name} looks like labels and is not used; save one integer a sample as {path.stem}-labels.npy"
        for file in files
        if looks_like_label(file.stem)
        and file != path
        and split_of_file(file.name) in (split_of_file(path.name), None)
        and not any(
            file.stem.endswith(ending) and file.stem.removesuffix(ending) in stems
            for ending in _LABEL_ENDINGS
        )
    )


def _unused_arrays(others: Mapping[str, StoredArray]) -> tuple[str, ...]:
    """Return notes on the arrays of an archive without labels that look like labels."""
    return tuple(
        f"array {name!r} looks like labels and is not used as such; save one integer a sample as {_LABELS!r}"
        for name in others
        if looks_like_label(name)
    )


def _labels(stored: StoredArray) -> Labels:
    check_label_kind(stored.dtype, stored.shape, stored.where)
    return check_labels(stored.whole(stored.nbytes), stored.where)


def _class_names(stored: StoredArray) -> tuple[str, ...]:
    if stored.dtype.kind != "U" or len(stored.shape) != 1:
        raise SourceError(f"{stored.where}: expected a row of names, found {stored.dtype} {stored.shape}")
    names = stored.whole()
    check_characters(names, stored.where, "names")
    return tuple(map(str, names))


def _codebook(stored: StoredArray) -> npt.NDArray[np.float32]:
    if stored.dtype.kind != "f" or len(stored.shape) not in (2, 3):
        raise SourceError(
            f"{stored.where}: expected floats (K, D) or (n, K, D), found {stored.dtype} {stored.shape}"
        )
    return stored.whole(_MOST_CODEBOOK_NBYTES).astype(np.float32)


def _agreed(of_splits: Sequence[_Value | None], what: str, where: str) -> _Value | None:
    """Return the value of the splits that have one; raise SourceError if the splits differ."""
    values = [value for value in of_splits if value is not None]
    if any(not np.array_equal(value, values[0]) for value in values):
        raise SourceError(f"{where}: splits differ in their {what}")
    return values[0] if values else None


SOURCE = SourceKind(
    open=open_arrays,
    holds=is_array_folder,
    looked_for="arrays (train.npy, train.npz)",
    endings=ENDINGS,
    options=frozenset({"columns"}),
)
"""The kind `array`."""
