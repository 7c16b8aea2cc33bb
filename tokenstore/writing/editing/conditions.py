"""The samples of a split that a condition is true of, found in a stream over its tables and columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenstore.format import LABELS, SAMPLES_SCHEMA, TOKENS
from tokenstore.reading import SplitReader
from tokenstore.reading.row_numbers import Indices, RowNumbers, rows_where
from tokenstore.writing.editing.expressions import Condition
from tokenstore.writing.rewrite import TableRows

__all__ = ["rows_that_hold"]

_ROW, _LABEL = "row", "label"


def rows_that_hold(split: SplitReader, condition: Condition) -> RowNumbers:
    """Return the row numbers of the samples that a condition is true of, in order.

    Its names are the columns of the samples table, `label` for the labels, `row` for the row number, and the
    further columns of texts and of one number a sample. Raises ArgumentError for other names, and for values
    that cannot be compared; DamageError.
    """
    arrays = _arrays(split)
    condition.check_names(dict.fromkeys([*SAMPLES_SCHEMA.names, _ROW, *arrays]), str(split))
    members = _Members(split, condition, arrays)
    return rows_where(len(split), members)


def _arrays(split: SplitReader) -> dict[str, str]:
    """Return the aligned arrays that a condition may name, by the names that it has for them."""
    arrays = {_LABEL: LABELS} if LABELS in split.columns else {}
    for name in split.columns:
        column = split.column(name)
        is_plain = column.form is None or column.form.data_type == "string"
        if name not in (TOKENS, LABELS) and not column.shape and is_plain:
            arrays[name] = name
    return arrays


class _Members:
    """The function that tells of consecutive rows of a split which a condition is true of."""

    def __init__(self, split: SplitReader, condition: Condition, arrays: Mapping[str, str]) -> None:
        self._condition = condition
        names = condition.names
        self._of_table = [name for name in SAMPLES_SCHEMA.names if name in names]
        self._readers = {
            name: split.array(array).streamed()
            for name, array in arrays.items()
            if name in names and name not in self._of_table
        }
        self._table = TableRows(split.samples_batches() if self._of_table else iter(()))

    def __call__(self, rows: Indices) -> npt.NDArray[np.bool_]:
        start, stop = int(rows[0]), int(rows[-1]) + 1
        columns: dict[str, Any] = {_ROW: pa.array(rows)}
        for name, reader in self._readers.items():
            columns[name] = pa.array(reader.read_range(start, stop))
        if self._of_table:
            table = pa.concat_tables(self._table.take(len(rows)))
            columns |= {name: table.column(name).combine_chunks() for name in self._of_table}
        return self._condition.holds(columns, len(rows))
