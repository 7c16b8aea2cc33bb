"""The source of images in Parquet files, as the Hugging Face hub stores them or as plain columns.

The image column holds encoded bytes, a struct of `bytes` and `path`, or paths relative to the file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from typing_extensions import override

from tokenstore.errors import Parameter, SourceError
from tokenstore.sources.base import GroupedSplit, ImageSource, Labels, Note
from tokenstore.sources.files import SourceFile
from tokenstore.sources.folders import FolderOnDisk
from tokenstore.sources.further import requested_fields
from tokenstore.sources.listings import SavedListings, list_files
from tokenstore.sources.names import check_range, digest, printable
from tokenstore.sources.parquet_cells import ParquetRequest
from tokenstore.sources.parquet_columns import ColumnOptions, Columns, choose_columns
from tokenstore.sources.parquet_footers import ListColumns, ListRowGroups
from tokenstore.sources.parquet_further import RowGroups, parquet_columns
from tokenstore.sources.parquet_labels import NotWholeError, read_labels
from tokenstore.sources.registry import SourceKind
from tokenstore.sources.shard_files import find_shards, has_shards
from tokenstore.storage import public_url

ENDINGS = (".parquet",)


@dataclass(frozen=True)
class ParquetSplit(GroupedSplit):
    """The rows of some Parquet files, in file order."""

    files: tuple[SourceFile, ...]
    column: str
    groups: RowGroups
    all_labels: Labels | None
    allow_outside_paths: bool = False
    column_is_named: bool = False
    """True if the user named the column, which the samples' names say then."""

    @override
    def __len__(self) -> int:
        return int(self.groups.starts[-1])

    @override
    def names(self, start: int, stop: int) -> pa.Array:
        check_range(start, stop, len(self))
        samples = np.arange(start, stop)
        files = self.groups.files[np.searchsorted(self.groups.starts, samples, "right") - 1]
        rows = samples - self.groups.starts[np.searchsorted(self.groups.files, files)]
        file_names = [printable(os.fsencode(file.name)) for file in self.files]
        pairs = zip(files.tolist(), rows.tolist(), strict=True)
        end = f".{self.column}" if self.column_is_named else ""
        return pa.array([f"{file_names[file]}[{row}]{end}" for file, row in pairs], pa.string())

    @override
    def labels(self, start: int, stop: int) -> Labels | None:
        check_range(start, stop, len(self))
        return None if self.all_labels is None else self.all_labels[start:stop]

    @override
    def fingerprint(self) -> str:
        files = repr([(file.name, file.nbytes) for file in self.files])
        return digest(files, self.column, self.groups.files, self.groups.starts, self.all_labels)

    @override
    def group_starts(self) -> npt.NDArray[np.int64]:
        return self.groups.starts

    @override
    def request(self, start: int, stop: int) -> ParquetRequest:
        check_range(start, stop, len(self))
        pieces = [
            (self.files[file], group, first, last)
            for file, group, first, last in self.groups.pieces(start, stop)
        ]
        return ParquetRequest(tuple(pieces), self.column, self.allow_outside_paths)


def open_parquet(
    location: str | Path,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    no_labels: bool = False,
    allow_outside_paths: bool = False,
    source_storage_options: Mapping[str, Any] | None = None,
    columns: Sequence[str] | None = None,
    listings: SavedListings | None = None,
) -> ImageSource:
    """List the rows of Parquet files: one file, a pattern, or a folder of files.

    The location may be a URL, for which `source_storage_options` are fsspec's. `columns` are further columns,
    each a name or `NAME=COLUMN` for another name in the store. A split whose labels are all
    -1, as secret test labels are, has no labels. Images whose paths lead out of their file's folder are bad
    samples, unless `allow_outside_paths`. What files say of their rows is taken from `listings`, and saved
    there.

    Raises SourceError if no column holds images, if a named column is not there or does not fit, if files
    differ in their columns, and for labels that are null, negative or, in a named column, not whole.
    """
    where = public_url(str(location))
    shards = find_shards(location, ENDINGS, source_storage_options, listings)
    schema = _first_schema([file for files in shards.splits.values() for file in files], listings)
    fields = requested_fields(columns, where)
    asked = ColumnOptions(image_column, label_column, no_labels, tuple(fields.values()))
    chosen = choose_columns(schema, where, asked)
    groups = {}
    for split, files in shards.splits.items():
        groups[split] = _list_split(files, chosen, listings)
        if not groups[split].starts[-1]:
            raise SourceError(f"{where}: the Parquet files of split {split} have no rows")
    labels, class_names, unused = _labels(shards.splits, chosen, where, listings)
    splits = {
        split: ParquetSplit(
            files,
            chosen.image,
            groups[split],
            labels.get(split),
            allow_outside_paths,
            image_column is not None,
        )
        for split, files in shards.splits.items()
    }
    notes = (*shards.notes, *chosen.notes)
    further = parquet_columns(fields, shards.splits, groups, schema, where)
    return ImageSource("parquet", where, splits, class_names, notes, unused, further)


def _labels(
    files: Mapping[str, tuple[SourceFile, ...]],
    columns: Columns,
    where: str,
    listings: SavedListings | None,
) -> tuple[dict[str, Labels], tuple[str, ...] | None, tuple[str, ...]]:
    """Return the labels of each split, the class names, and the notes on labels that are not used."""
    if columns.label is None:
        return {}, None, columns.unused_labels
    try:
        return *read_labels(columns.label, files, columns.class_names, where, listings), ()
    except NotWholeError as error:
        if columns.label_is_named:
            raise
        parameter = Parameter("label_column")
        text = f"{error}, so it is not used; {parameter} takes another column"
        return {}, None, (Note(text, [parameter]),)


def _first_schema(files: Sequence[SourceFile], listings: SavedListings | None) -> pa.Schema:
    """Return the columns of the first file with rows: those of an empty one may be of the type null."""
    first = None
    for file in files:
        (listing,) = list_files([file], ListColumns(), listings)
        schema = pa.ipc.read_schema(pa.py_buffer(listing.table["schema"][0].as_py()))
        if listing.facts["rows"]:
            return schema
        first = schema if first is None else first
    return first


def _list_split(
    split_files: tuple[SourceFile, ...], columns: Columns, listings: SavedListings | None
) -> RowGroups:
    """Return the row groups of some files, whose columns have to fit those of the first file."""
    files: list[int] = []
    numbers: list[int] = []
    sizes: list[int] = []
    task = ListRowGroups(columns.image, columns.label, columns.further)
    for number, listing in enumerate(list_files(split_files, task, listings, in_processes=False)):
        rows = listing.table["rows"].to_pylist()
        files += [number] * len(rows)
        numbers += range(len(rows))
        sizes += rows
    starts = np.concatenate(([0], np.cumsum(sizes, dtype=np.int64)))
    return RowGroups(np.array(files, np.int32), np.array(numbers, np.int32), starts)


def _is_parquet_folder(folder: Path) -> bool:
    return has_shards(FolderOnDisk(folder), ENDINGS)


SOURCE = SourceKind(
    open=open_parquet,
    holds=_is_parquet_folder,
    looked_for=".parquet files",
    endings=ENDINGS,
    options=frozenset(
        {
            *("image_column", "label_column", "no_labels", "allow_outside_paths"),
            *("source_storage_options", "columns", "listings"),
        }
    ),
    holds_url=partial(has_shards, endings=ENDINGS),
)
"""The kind `parquet`."""
