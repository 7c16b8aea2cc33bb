"""Further columns in a table beside a source: a CSV or Parquet file with a row for the path of an image."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from tokenstore.errors import Parameter, SourceError, StorageError
from tokenstore.parquet_pages import inflated_nbytes, open_parquet
from tokenstore.sources.arrow_types import READ_ERRORS, is_bytes, is_text, plain
from tokenstore.sources.base import Further, Source
from tokenstore.sources.files import SourceFile, reading
from tokenstore.sources.further import arrow_columns, missing_field, requested_fields
from tokenstore.sources.label_paths import match_paths
from tokenstore.sources.label_table import PATH_NAMES, csv_content
from tokenstore.sources.names import counted, first_indices, printable
from tokenstore.sources.places import file_at
from tokenstore.texts import shortened

__all__ = ["table_columns"]

_PARQUET = ".parquet"
_MOST_NBYTES = 2**32
"""The most bytes of a table's values."""


def table_columns(
    source: Source,
    table: str | Path,
    columns: Sequence[str] | None,
    path_column: str | None,
    storage_options: Mapping[str, Any] | None,
) -> tuple[Further, tuple[str, ...]]:
    """Return the columns of a table for each split of a source, and notes.

    A row belongs to the sample whose name in the source its path is. `columns` chooses columns, by default
    all but the paths. Samples without a row have no values. Raises SourceError for a table that cannot be
    read, has two rows for a sample or none for any, and for columns that no store can have.
    """
    file = file_at(table, storage_options)
    rows = _read(file)
    names = [printable(name.encode("utf-8", "surrogateescape")) for name in rows.schema.names]
    path = _path_column(names, path_column, file)
    fields = requested_fields(columns, str(file))
    fields = fields or requested_fields([f"{name}={name}" for name in names if name != path], str(file))
    for field in fields.values():
        if names.count(field) != 1:
            raise missing_field(str(file), field, names)
    paths = _paths(rows.column(names.index(path)), file)
    images = {
        split: pa.chunked_array([of_split.names(0, len(of_split)).cast(pa.binary())])
        for split, of_split in source.splits.items()
    }
    match = match_paths(paths, images, Path(source.location).name)
    first = first_indices(match.paths, match.paths)
    twice = np.flatnonzero(first != np.arange(len(first)))
    if len(twice):
        name = printable(paths[int(twice[0])].as_py())
        raise SourceError(f"{file}: two rows are of the path {name!r}; keep one")
    at = {split: first_indices(match.names[split], match.paths) for split in images}
    notes = (*match.notes, *_notes(file, at, len(rows), images))
    further: dict[str, dict[str, Any]] = {split: {} for split in images}
    for name, field in fields.items():
        values = rows.column(names.index(field))
        taken = {split: values.take(pa.array(places, mask=places < 0)) for split, places in at.items()}
        for split, column in arrow_columns(taken, field, str(file)).items():
            further[split][name] = column
    return further, notes


def _read(file: SourceFile) -> pa.Table:
    try:
        if file.name.lower().endswith(_PARQUET):
            with reading(file) as reader:
                nbytes = inflated_nbytes(reader)
                if nbytes > _MOST_NBYTES:
                    raise SourceError(f"{file}: expected at most {_MOST_NBYTES:,} bytes, found {nbytes:,}")
                return open_parquet(file.arrow_source()).read()
        data, delimiter, _ = csv_content(file)
        return _read_csv(data, delimiter)
    except (StorageError, SourceError):
        raise
    except READ_ERRORS as error:
        raise SourceError(f"{file}: expected a CSV or Parquet file with a heading: {error}") from error


def _read_csv(data: bytes, delimiter: str) -> pa.Table:
    """Return the columns of a CSV file; what is written as no number is, such as 007 or a day, is a text."""
    parse = arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    table = arrow_csv.read_csv(io.BytesIO(data), parse_options=parse)
    doubtful = [
        name
        for name, kind in zip(table.schema.names, table.schema.types, strict=True)
        if (pa.types.is_integer(kind) or pa.types.is_temporal(kind)) and table.schema.names.count(name) == 1
    ]
    if not doubtful:
        return table
    as_texts = arrow_csv.ConvertOptions(
        include_columns=doubtful, column_types=dict.fromkeys(doubtful, pa.string())
    )
    texts = arrow_csv.read_csv(io.BytesIO(data), parse_options=parse, convert_options=as_texts)
    for name in doubtful:
        written, values = pc.utf8_trim_whitespace(texts[name]), table[name]
        is_number = pa.types.is_integer(values.type)
        if not (is_number and pc.all(pc.equal(written, values.cast(pa.string()))).as_py() is not False):
            table = table.set_column(table.schema.get_field_index(name), name, texts[name])
    return table


def _path_column(names: Sequence[str], given: str | None, file: SourceFile) -> str:
    parameter = Parameter("image_column")
    if given is not None:
        if names.count(given) != 1:
            raise SourceError(f"{file}: {parameter}: no such column {given!r}", parameters=[parameter])
        return given
    lower = [name.strip().lower() for name in names]
    known = next((name for name in PATH_NAMES if lower.count(name) == 1), None)
    if known is None:
        raise SourceError(
            f"{file}: expected a column of paths with a usual name, such as {shortened(PATH_NAMES)}, found "
            f"{shortened(names, 10)}; {parameter} names it",
            parameters=[parameter],
        )
    return names[lower.index(known)]


def _paths(values: pa.ChunkedArray, file: SourceFile) -> pa.ChunkedArray:
    if not (is_text(values.type) or is_bytes(values.type)) or values.null_count:
        raise SourceError(
            f"{file}: expected a path in each row, found {values.type} with {values.null_count} nulls"
        )
    return pa.chunked_array([plain(chunk).cast(pa.binary()) for chunk in values.chunks], pa.binary())


def _notes(
    file: SourceFile, at: Mapping[str, Any], rows: int, images: Mapping[str, pa.ChunkedArray]
) -> tuple[str, ...]:
    """Return notes on rows without a sample and samples without a row; raise SourceError if none fits."""
    used = sum(int((places >= 0).sum()) for places in at.values())
    if not used:
        first = next(iter(images.values()))[0].as_py()
        raise SourceError(
            f"{file}: none of its paths is that of an image; the first image is {printable(first)!r}"
        )
    notes = [f"rows of {file.name} without an image: {rows - used}"] if rows > used else []
    for split, places in at.items():
        bare = np.flatnonzero(places < 0)
        if len(bare):
            name = printable(images[split][int(bare[0])].as_py())
            notes.append(counted(f"images of split {split} without a row in {file.name}", len(bare), name))
    return tuple(notes)
