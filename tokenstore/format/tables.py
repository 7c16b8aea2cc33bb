"""The tables of a split's samples and of the skipped ones, and the columns beside its tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

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
