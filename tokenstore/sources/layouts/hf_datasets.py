"""The source of data sets that Hugging Face's `datasets` library saved on a disk, with a column of codes.

    FOLDER/state.json, dataset_info.json, data-00000-of-00001.arrow      one split: Dataset.save_to_disk
    FOLDER/dataset_dict.json, train/, validation/ ...                    several:   DatasetDict.save_to_disk

The files are Arrow's streams of record batches, which are mapped. A single `.arrow` file is a source too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from typing_extensions import override

from tokenstore.codecs import Column
from tokenstore.errors import SourceError
from tokenstore.sources.arrow_types import READ_ERRORS, is_text, type_name
from tokenstore.sources.arrow_values import Extent, column_values
from tokenstore.sources.base import CodeSource, Labels, SourceColumn
from tokenstore.sources.code_values import check_shape
from tokenstore.sources.files import LocalFile, json_object
from tokenstore.sources.further import missing_field, requested_fields
from tokenstore.sources.layouts.arrow_streams import ArrowStream, open_stream
from tokenstore.sources.layouts.rows import CodeRows, LayoutSplit
from tokenstore.sources.names import digest, is_plain_name
from tokenstore.sources.parquet_columns import (
    ColumnOptions,
    Columns,
    choose_beside_codes,
    code_column,
    labelled_choice,
)
from tokenstore.sources.parquet_labels import LabelColumn, label_table
from tokenstore.sources.registry import SourceKind
from tokenstore.sources.split_names import DEFAULT_SPLIT, in_usual_order, split_of_file, split_of_folder

_STATE, _SPLITS = "state.json", "dataset_dict.json"
_ENDING = ".arrow"
_MOST_NBYTES = 2**26
_MOST_ROWS = 2**16
"""The rows that are looked at together for their shape."""


@dataclass(frozen=True)
class StreamColumn(SourceColumn):
    """One column of the files of a split."""

    kind: Column
    files: tuple[ArrowStream, ...]
    name: str
    where: str

    @property
    @override
    def column(self) -> Column:
        return self.kind

    @override
    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        values = [np.empty((0, *self.kind.shape), self.kind.dtype)]
        for cells in _cells(self.files, self.name, start, stop):
            values.append(column_values(cells, self.kind, self.where))
        return np.concatenate(values)

    @override
    def fingerprint(self) -> str:
        return digest(self.name, str(self.kind))  # the files are in that of the split


@dataclass(frozen=True)
class StreamRows(CodeRows):
    """The codes in one column of the files of a split."""

    values: StreamColumn

    @property
    @override
    def where(self) -> str:
        return self.values.where

    @property
    @override
    def grid(self) -> tuple[int, ...]:
        return self.values.kind.shape

    @override
    def __len__(self) -> int:
        return sum(map(len, self.values.files))

    @override
    def rows(self, start: int, stop: int) -> npt.NDArray[np.generic]:
        return self.values.read(start, stop)

    @override
    def names(self, start: int, stop: int) -> pa.Array:
        names: list[str] = []
        for file in self.values.files:
            names += [f"{file.file.name}[{row}]" for row in range(start, min(stop, len(file)))]
            start, stop = max(start - len(file), 0), max(stop - len(file), 0)
        return pa.array(names, pa.string())

    @override
    def fingerprint(self) -> str:
        files = [digest(file.file.name, file.offsets, file.starts) for file in self.values.files]
        return digest(*files, self.values.fingerprint())


def open_datasets(
    location: str | Path,
    *,
    token_column: str | None = None,
    label_column: str | None = None,
    no_labels: bool = False,
    columns: Sequence[str] | None = None,
) -> CodeSource:
    """Open a local data set that was saved by `save_to_disk`, or a single `.arrow` file.

    `token_column` is the column of codes, lists or lists of lists of one shape, by default `tokens` or the
    only one; `label_column` that of labels, by default the one of the type ClassLabel, or by its name.
    `columns` are further columns. Raises SourceError for files that are damaged, cut off or not there, for a
    data set without a column of codes, and for lists of several shapes.
    """
    where = str(location)
    fields = requested_fields(columns, where)
    files = {split: tuple(map(open_stream, of_split)) for split, of_split in _files(Path(location)).items()}
    schemas = _schemas(files, where)
    schema = next(iter(schemas.values()))
    codes = code_column(schema, where, token_column, None)
    if codes is None:
        found = ", ".join(f"{field.name} ({field.type})" for field in schema)
        raise SourceError(
            f"{where}: expected a column of codes, lists of whole numbers, found {found}. Images are taken "
            "from Parquet files: write it by to_parquet"
        )
    asked = ColumnOptions(None, label_column, no_labels, tuple(fields.values()))
    chosen = labelled_choice(
        schemas, label_column, lambda each: choose_beside_codes(each, where, codes, asked)
    )
    _check_columns(schemas, chosen.label, where)
    for field in fields.values():
        if field not in schema.names:
            raise missing_field(where, field, schema.names)
    kinds = {name: _kind(files, name, schema, where) for name in (codes, *fields.values())}
    if kinds[codes].is_ragged:
        raise SourceError(
            f"{where}: column {codes!r}: expected lists of one length in all rows, found several"
        )
    check_shape(kinds[codes].dtype, (1, *kinds[codes].shape), f"{where}: column {codes!r}")
    labels, class_names = _labels(chosen.labelled(files, schemas), chosen, where)

    def column(split: str, name: str) -> StreamColumn:
        return StreamColumn(kinds[name], files[split], name, f"{where}: column {name!r}")

    return CodeSource(
        kind="datasets",
        location=where,
        splits={split: LayoutSplit(StreamRows(column(split, codes)), labels.get(split)) for split in files},
        grid=kinds[codes].shape,
        class_names=class_names,
        notes=(*chosen.notes, *chosen.unlabelled(schemas)),
        unused_labels=chosen.unused_labels,
        further={
            split: {name: column(split, field) for name, field in fields.items()} for split in files if fields
        },
    )


def _files(root: Path) -> dict[str, list[LocalFile]]:
    """Return the files of each split."""
    if root.is_file():
        return {split_of_file(root.name) or DEFAULT_SPLIT: [LocalFile.of(root)]}
    if not (root / _SPLITS).is_file():
        return {split_of_folder(root.resolve().name) or DEFAULT_SPLIT: _files_of_split(root)}
    names = _json(root / _SPLITS).get("splits")
    if not isinstance(names, list) or not names or not all(map(is_plain_name, names)):
        raise SourceError(f"{root / _SPLITS}: expected the names of splits, found {names!r:.200}")
    splits = {split_of_folder(name) or name: root / name for name in names}
    if len(splits) < len(names):
        raise SourceError(f"{root / _SPLITS}: two of {names!r:.200} are one split")
    return {split: _files_of_split(splits[split]) for split in in_usual_order(splits)}


def _files_of_split(folder: Path) -> list[LocalFile]:
    if not (folder / _STATE).is_file():
        raise SourceError(f"{folder}: expected a data set that `save_to_disk` wrote, found no {_STATE}")
    state = _json(folder / _STATE)
    if state.get("_indices_data_files"):
        raise SourceError(f"{folder}: is a selection of rows of its files; save it after flatten_indices()")
    entries = state.get("_data_files")
    names: list[Any] = [entry.get("filename") if isinstance(entry, dict) else None for entry in entries or ()]
    if not names or not all(map(is_plain_name, names)) or len(set(names)) < len(names):
        raise SourceError(
            f"{folder / _STATE}: expected the names of files in its own folder, each once, found "
            f"{names!r:.200}"
        )
    for name in names:
        if not (folder / name).is_file():
            raise SourceError(f"{folder / name}: no such file, which {_STATE} names")
    return [LocalFile.of(folder / name) for name in names]


def _json(path: Path) -> dict[str, Any]:
    return json_object(path, _MOST_NBYTES, "an object in JSON")


def _schemas(files: Mapping[str, tuple[ArrowStream, ...]], where: str) -> dict[str, pa.Schema]:
    """Return the columns of each split; raise SourceError for files that differ, and splits without rows."""
    schemas = {}
    for split, of_split in files.items():
        if not sum(map(len, of_split)):
            raise SourceError(f"{where}: split {split} has no rows")
        schemas[split] = of_split[0].schema
        for file in of_split:
            if _types(file.schema) != _types(schemas[split]):
                raise SourceError(f"{file.file}: has other columns than the first file")
    return schemas


def _check_columns(schemas: Mapping[str, pa.Schema], label: str | None, where: str) -> None:
    """Raise SourceError for splits of different columns, but for the label's, which some may lack."""
    types = {split: _types(schema) for split, schema in schemas.items()}
    labelled = next((of_split for of_split in types.values() if label in of_split), {})
    for split, of_split in types.items():
        expected = labelled or next(iter(types.values()))
        if of_split not in (expected, {name: kind for name, kind in expected.items() if name != label}):
            raise SourceError(f"{where}: split {split} has other columns than another split")


def _types(schema: pa.Schema) -> dict[str, str]:
    return {field.name: type_name(field.type) for field in schema}


def _cells(files: Sequence[ArrowStream], name: str, start: int, stop: int) -> Iterator[pa.Array]:
    for file in files:
        if start < len(file) and stop > 0:
            yield from file.cells(name, start, min(stop, len(file)))
        start, stop = max(start - len(file), 0), max(stop - len(file), 0)


def _kind(files: Mapping[str, tuple[ArrowStream, ...]], name: str, schema: pa.Schema, where: str) -> Column:
    """Return what a column holds: by its type, or by all its values."""
    extent = Extent(f"{where}: column {name!r}")
    for of_split in files.values():
        for start in range(0, sum(map(len, of_split)), _MOST_ROWS):
            for cells in _cells(of_split, name, start, start + _MOST_ROWS):
                extent.add(cells)
            if is_text(schema.field(name).type):
                return extent.column()
    return extent.column()


def _labels(
    files: Mapping[str, tuple[ArrowStream, ...]], chosen: Columns, where: str
) -> tuple[dict[str, Labels], tuple[str, ...] | None]:
    if chosen.label is None:
        return {}, None
    column = LabelColumn(chosen.label, where)
    for split, of_split in files.items():
        for file in of_split:
            try:
                cells = file.cells(chosen.label, 0, len(file))
                column.add(split, label_table(cells, str(file.file), chosen.label))
            except READ_ERRORS as error:
                raise SourceError(f"{file.file}: column {chosen.label!r} cannot be read: {error}") from error
    return column.labels(chosen.class_names)


def _holds(folder: Path) -> bool:
    return (folder / _STATE).is_file() or (folder / _SPLITS).is_file()


SOURCE = SourceKind(
    open=open_datasets,
    holds=_holds,
    looked_for=f"saved data sets ({_STATE}, {_SPLITS})",
    endings=(_ENDING,),
    options=frozenset({"token_column", "label_column", "no_labels", "columns"}),
)
"""The kind `datasets`."""
