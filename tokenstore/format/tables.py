"""The tables of a split's samples and of the skipped ones, and the columns beside its tokens."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tokenstore.codecs import Column
from tokenstore.errors import DamageError
from tokenstore.parquet_pages import inflated_nbytes, open_parquet

MOST_ROW_NBYTES = 2**12
MOST_FIXED_NBYTES = 2**26
"""A table takes at most MOST_FIXED_NBYTES, and MOST_ROW_NBYTES for each row, once it is decompressed."""

SAMPLES_SCHEMA = pa.schema(
    [
        ("source_index", pa.int64()),
        ("source", pa.string()),
        ("label_name", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("source_bytes", pa.int64()),
    ]
)
SKIPPED_SCHEMA = pa.schema([("source_index", pa.int64()), ("source", pa.string()), ("reason", pa.string())])

BATCH_ROWS = 2**15
"""The most rows of one batch of a table."""

_SMALL_NBYTES = 2**20
"""The bytes of a file up to which threads take longer to start than to read it."""
_BUFFER_NBYTES = 2**18
"""The bytes of a column that are read ahead: a row group may have a million rows."""


@dataclass(frozen=True)
class Skip:
    """A sample of the source that was left out of the store."""

    source_index: int
    source: str
    reason: str


LABEL_COLUMN = Column(np.dtype(np.int32))


def samples_table(
    source_index: npt.NDArray[np.int64],
    source: pa.Array | list[str],
    labels: npt.NDArray[np.int32] | None,
    class_names: tuple[str, ...] | None,
    **sizes: npt.NDArray[np.int64],
) -> pa.Table:
    """Return a table of SAMPLES_SCHEMA. `sizes` are the columns width, height and source_bytes, if known."""
    columns: dict[str, Any] = {"source_index": source_index, "source": source, **sizes}
    if labels is not None and class_names is not None:
        columns["label_name"] = pa.array(class_names, pa.string()).take(pa.array(labels))
    absent = pa.nulls(len(source_index))
    return pa.table([columns.get(field.name, absent) for field in SAMPLES_SCHEMA], SAMPLES_SCHEMA.names).cast(
        SAMPLES_SCHEMA
    )


def read_table(data: bytes, schema: pa.Schema, rows: int, where: str) -> pa.Table:
    """Return the columns of `schema` of a Parquet file of so many rows (FORMAT.md, M5).

    Other columns are left out. No more is decompressed than a table of so many rows may take. `where` names
    the file in messages. Raises DamageError for a file that has other rows or columns, or is too large.
    """
    with _damage_named(schema, rows, where):
        file = _opened(io.BytesIO(data), schema, rows)
        table = file.read(schema.names, use_threads=len(data) > _SMALL_NBYTES).select(schema.names)
        table.validate(full=True)
        _check_text(sum(map(_text_nbytes, table.columns)), rows)
        return table.cast(schema)


def table_batches(
    file: BinaryIO, schema: pa.Schema, rows: int, where: str, start: int = 0
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of the same table from row `start` on, as record batches of up to BATCH_ROWS rows.

    `file` is a Parquet file that is open for reading; row groups before `start` are not decoded. Memory does
    not grow with the number of rows. Raises DamageError as `read_table` does.
    """
    with _damage_named(schema, rows, where):
        parquet = _opened(file, schema, rows, buffer_size=_BUFFER_NBYTES)
        groups = [parquet.metadata.row_group(number).num_rows for number in range(parquet.num_row_groups)]
        stops = np.cumsum([0, *groups])
        if stops[-1] != rows:
            raise ValueError(f"expected {rows} rows in groups, found {stops[-1]}")
        first = int(np.searchsorted(stops[1:], start, side="right"))
        at, text_nbytes = int(stops[first]), 0
        for batch in parquet.iter_batches(
            BATCH_ROWS, range(first, len(groups)), columns=schema.names, use_threads=False
        ):
            batch.validate(full=True)
            text_nbytes += sum(map(_text_nbytes, batch.columns))
            _check_text(text_nbytes, rows)
            table = pa.Table.from_batches([batch]).select(schema.names).cast(schema)
            skipped = min(max(0, start - at), len(batch))
            yield from table.slice(skipped).combine_chunks().to_batches()
            at += len(batch)
        if at != rows:
            raise ValueError(f"expected {rows} rows, found {at}")


@contextlib.contextmanager
def _damage_named(schema: pa.Schema, rows: int, where: str) -> Iterator[None]:
    """Turn what a bad table's file raises in the block into a DamageError."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise DamageError(
            f"{where}: not a table of {rows} rows with the columns {', '.join(schema.names)}: {error}. "
            "Restore the file from a copy"
        ) from error


def _opened(file: BinaryIO, schema: pa.Schema, rows: int, **settings: Any) -> pq.ParquetFile:
    """Open a Parquet file whose rows, columns and pages are those of a table of so many rows."""
    parquet = open_parquet(file)
    if parquet.metadata.num_rows != rows:
        raise ValueError(f"expected {rows} rows, found {parquet.metadata.num_rows}")
    for field in schema:
        _check_column(field, parquet.schema_arrow)
    most, nbytes = _most_nbytes(rows), inflated_nbytes(file)
    if nbytes > most:
        raise ValueError(f"expected at most {most} bytes of values, found {nbytes}")
    file.seek(0)
    # subtle: read as a dictionary, a text that a million rows repeat is in memory once
    texts = [field.name for field in schema if field.type == pa.string()]
    return open_parquet(file, metadata=parquet.metadata, read_dictionary=texts, **settings)


def _most_nbytes(rows: int) -> int:
    return MOST_FIXED_NBYTES + MOST_ROW_NBYTES * rows


def _check_text(nbytes: int, rows: int) -> None:
    if nbytes > _most_nbytes(rows):
        raise ValueError(f"expected at most {_most_nbytes(rows)} bytes of text, found {nbytes}")


def _check_column(field: pa.Field, schema: pa.Schema) -> None:
    places = schema.get_all_field_indices(field.name)
    if len(places) != 1:
        raise ValueError(f"expected one column {field.name}, found {len(places)}")
    kind = schema.field(places[0]).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if kind != field.type and not (field.type == pa.string() and pa.types.is_large_string(kind)):
        raise ValueError(f"expected {field.type} in the column {field.name}, found {kind}")


def _text_nbytes(column: pa.Array | pa.ChunkedArray) -> int:
    """Return the bytes of a column's text, were each row's written out; 0 for a column of numbers."""
    total = 0
    for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
        if pa.types.is_dictionary(chunk.type):
            total += pc.sum(pc.binary_length(chunk.dictionary).take(chunk.indices)).as_py() or 0
        elif pa.types.is_string(chunk.type) or pa.types.is_large_string(chunk.type):
            total += chunk.nbytes
    return total
