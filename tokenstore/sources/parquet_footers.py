"""The listing of what the footers of Parquet files say: the columns, and the rows of each row group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from typing_extensions import override

from tokenstore.errors import SourceChangedError, SourceError, StorageError
from tokenstore.parquet_pages import open_parquet
from tokenstore.sources.arrow_types import READ_ERRORS, type_name
from tokenstore.sources.files import SourceFile
from tokenstore.sources.listings import FileListing, ListingTask, SavedListings, list_files
from tokenstore.sources.parquet_columns import holds_images, holds_labels, type_of

__all__ = ["ListColumns", "ListRowGroups", "first_schema", "row_groups"]


@dataclass(frozen=True)
class ListColumns(ListingTask):
    """The listing of the columns of a file: its `schema` in one row, and as a fact the number of rows."""

    @override
    def __call__(self, file: SourceFile) -> FileListing:
        footer, schema = _open(file)
        table = pa.table({"schema": pa.array([schema.serialize().to_pybytes()], pa.binary())})
        return FileListing(table, {"rows": footer.num_rows})


@dataclass(frozen=True)
class ListRowGroups(ListingTask):
    """The listing of the `rows` of each row group of a file that has the columns of the first file."""

    image: str | None
    label: str | None
    further: tuple[tuple[str, str], ...] = ()
    """The names of further columns, and their types."""

    @override
    def __call__(self, file: SourceFile) -> FileListing:
        footer, schema = _open(file)
        rows: list[int] = []
        if footer.num_rows:  # the columns of a file without any may be of the type null
            self._check_columns(file, schema)
            if footer.num_rows > file.nbytes:
                raise SourceError(
                    f"{file}: says it has {footer.num_rows:,} rows, more than its bytes can hold"
                )
            rows = [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
            if min(rows, default=-1) < 0 or sum(rows) != footer.num_rows:
                raise SourceError(
                    f"{file}: says it has {footer.num_rows:,} rows, and {sum(rows):,} in its groups"
                )
        return FileListing(pa.table({"rows": pa.array(rows, pa.int64())}), {})

    def _check_columns(self, file: SourceFile, schema: pa.Schema) -> None:
        for column, expected in self.further:
            kind = type_of(schema, column)
            if kind is None:
                raise SourceError(f"{file}: has no column {column!r}, unlike the first file")
            is_missing = pa.types.is_null(kind) and expected == type_name(pa.string())
            if type_name(kind) != expected and not is_missing:
                raise SourceError(
                    f"{file}: column {column!r} is of another type than in the first file: {kind}"
                )
        for name, holds in ((self.image, holds_images), (self.label, holds_labels)):
            if name is not None and name not in schema.names:
                raise SourceError(f"{file}: has no column {name!r}, unlike the first file")
            if name is not None and not holds(schema.field(schema.names.index(name)).type):
                kind = schema.field(schema.names.index(name)).type
                raise SourceError(
                    f"{file}: column {name!r} is of another type than in the first file: {kind}"
                )


def first_schema(files: Sequence[SourceFile], listings: SavedListings | None) -> pa.Schema:
    """Return the columns of the first file with rows: those of an empty one may be of the type null."""
    first = None
    for file in files:
        (listing,) = list_files([file], ListColumns(), listings)
        schema = pa.ipc.read_schema(pa.py_buffer(listing.table["schema"][0].as_py()))
        if listing.facts["rows"]:
            return schema
        first = schema if first is None else first
    return first


def row_groups(
    files: Sequence[SourceFile], task: ListRowGroups, listings: SavedListings | None
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Return for all row groups of some files the file, the number in it, and the first row.

    The first rows have the number of all rows at the end. The files' columns have to fit those of the first.
    """
    numbers: list[int] = []
    of_files: list[int] = []
    sizes: list[int] = []
    for number, listing in enumerate(list_files(files, task, listings, in_processes=False)):
        rows = listing.table["rows"].to_pylist()
        of_files += [number] * len(rows)
        numbers += range(len(rows))
        sizes += rows
    starts = np.concatenate(([0], np.cumsum(sizes, dtype=np.int64)))
    return np.array(of_files, np.int32), np.array(numbers, np.int32), starts


def _open(file: SourceFile) -> tuple[pq.FileMetaData, pa.Schema]:
    """Return the footer and the columns of a file."""
    try:
        with open_parquet(file.arrow_source()) as opened:
            schema = opened.schema_arrow
            "".join(schema.names).encode()  # names that are not UTF-8 raise here
            metadata = opened.metadata
        file.check_unchanged()
        return metadata, schema
    except (StorageError, SourceChangedError):
        raise
    except READ_ERRORS as error:
        raise SourceError(f"{file}: expected a Parquet file: {error}") from error
