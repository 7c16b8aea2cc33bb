"""The tables of a split's samples and of the skipped ones, and the columns beside its tokens."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tokenstore.errors import DamageError
from tokenstore.format.parquet import inflated_nbytes

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

_SMALL_NBYTES = 2**20
"""The bytes of a file up to which threads take longer to start than to read it."""


@dataclass(frozen=True)
class Skip:
    """A sample of the source that was left out of the store."""

    source_index: int
    source: str
    reason: str


@dataclass(frozen=True)
class Column:
    """An aligned array beside the tokens: the dtype and the shape of one sample."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...] = ()

    @property
    def nbytes(self) -> int:
        """The bytes of one sample."""
        return self.dtype.itemsize * math.prod(self.shape)


LABEL_COLUMN = Column(np.dtype(np.int32))


def samples_table(
    source_index: npt.NDArray[np.int64],
    source: pa.Array | list[str],
    labels: npt.NDArray[np.int32] | None,
    class_names: tuple[str, ...] | None,
    **sizes: list[int],
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
    try:
        return _read_table(data, schema, rows)
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise DamageError(
            f"{where}: not a table of {rows} rows with the columns {', '.join(schema.names)}: {error}. "
            "Restore the file from a copy"
        ) from error


def _read_table(data: bytes, schema: pa.Schema, rows: int) -> pa.Table:
    file = pq.ParquetFile(io.BytesIO(data))
    if file.metadata.num_rows != rows:
        raise ValueError(f"expected {rows} rows, found {file.metadata.num_rows}")
    for field in schema:
        _check_column(field, file.schema_arrow)
    most = MOST_FIXED_NBYTES + MOST_ROW_NBYTES * rows
    nbytes = inflated_nbytes(data)
    if nbytes > most:
        raise ValueError(f"expected at most {most} bytes of values, found {nbytes}")
    # subtle: read as a dictionary, a text that a million rows repeat is in memory once
    texts = [field.name for field in schema if field.type == pa.string()]
    file = pq.ParquetFile(io.BytesIO(data), metadata=file.metadata, read_dictionary=texts)
    table = file.read(schema.names, use_threads=len(data) > _SMALL_NBYTES).select(schema.names)
    table.validate(full=True)
    nbytes = sum(map(_text_nbytes, table.select(texts).columns))
    if nbytes > most:
        raise ValueError(f"expected at most {most} bytes of text, found {nbytes}")
    return table.cast(schema)


def _check_column(field: pa.Field, found: pa.Schema) -> None:
    places = found.get_all_field_indices(field.name)
    if len(places) != 1:
        raise ValueError(f"expected one column {field.name}, found {len(places)}")
    kind = found.field(places[0]).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if kind != field.type and not (field.type == pa.string() and pa.types.is_large_string(kind)):
        raise ValueError(f"expected {field.type} in the column {field.name}, found {kind}")


def _text_nbytes(column: pa.ChunkedArray) -> int:
    """Return the bytes of a column of dictionaries of text, were each row's text written out."""
    total = 0
    for chunk in column.chunks:
        if pa.types.is_dictionary(chunk.type):
            total += pc.sum(pc.binary_length(chunk.dictionary).take(chunk.indices)).as_py() or 0
        else:
            total += chunk.nbytes
    return total
