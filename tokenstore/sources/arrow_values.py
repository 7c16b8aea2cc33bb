"""The values of Arrow's arrays as those of columns: which column they are, and its numpy values.

A missing text is the empty text, a missing list the empty list, a missing float NaN. Integers and booleans
have no value that could stand for a missing one, so such a column is refused.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tokenstore.codecs import TEXT, Column, list_column
from tokenstore.errors import CodecError, SourceError
from tokenstore.sources.arrow_types import is_text, plain, type_name

__all__ = ["MOST_VALUES", "Extent", "column_values"]

MOST_VALUES = 2**24
"""The values of an array above which it is no column of a sample."""


class Extent:
    """The type and the lengths of values, gathered chunk by chunk: both say which column they are."""

    def __init__(self, where: str) -> None:
        self.where = where
        self._type: pa.DataType | None = None
        self._rows = 0
        self._levels: list[tuple[int, int]] = []
        """The least and the greatest length of the lists at each depth."""
        self._has_null_lists = False
        self._has_negative = False

    @property
    def is_known(self) -> bool:
        """True if the type alone says which column it is: no further values need to be looked at."""
        return self._type is not None and (is_text(self._type) or pa.types.is_floating(self._type))

    def add(self, cells: pa.Array) -> None:
        """Take more values; raise SourceError for types that differ, and for what no column can hold."""
        cells = plain(cells)
        kind = pa.string() if is_text(cells.type) else cells.type
        if self._type is not None and type_name(kind) != type_name(self._type):
            if _signed(kind) != _signed(self._type):
                raise SourceError(f"{self.where}: expected {self._type} as in the first values, found {kind}")
            kind = kind if "uint64" in str(kind) else self._type  # of JSON, which says no types
        self._type = kind
        if not is_text(kind):
            self._measure(cells)
        self._rows += len(cells)

    def _measure(self, cells: pa.Array) -> None:
        depth = 0
        while _is_list(cells.type):
            self._has_null_lists |= cells.null_count > 0
            lengths = pc.min_max(pc.list_value_length(cells)).as_py()
            if lengths["min"] is not None:
                level = (lengths["min"], lengths["max"])
                if depth < len(self._levels):
                    old = self._levels[depth]
                    level = (min(old[0], level[0]), max(old[1], level[1]))
                    self._levels[depth] = level
                else:
                    self._levels.append(level)
            if depth and cells.null_count:
                raise SourceError(f"{self.where}: a list inside a list is null; write an empty one")
            cells, depth = _values_of(cells), depth + 1
        self._has_negative |= pa.types.is_int64(cells.type) and (pc.min(cells).as_py() or 0) < 0
        if self._has_negative and "uint64" in str(self._type):
            raise SourceError(f"{self.where}: has numbers below 0 and above {2**63 - 1}: no type holds both")
        if cells.null_count and (pa.types.is_integer(cells.type) or pa.types.is_boolean(cells.type)):
            first = self._rows + pc.is_null(cells).index(True).as_py()
            at = f" (first: row {first})" if not depth else ""
            raise SourceError(
                f"{self.where}: {cells.null_count} values are null{at}, and {cells.type} has no value for "
                "that; fill them, or make the column one of floats"
            )

    def column(self) -> Column:
        """Return the column of all values; raise SourceError where none can hold them."""
        kind = self._type
        if kind is None or is_text(kind):
            return TEXT
        depth = 0
        while _is_list(kind):
            kind, depth = kind.value_type, depth + 1
        if pa.types.is_null(kind):
            raise SourceError(f"{self.where}: expected values, found none")
        try:
            dtype = np.dtype(kind.to_pandas_dtype())
        except (NotImplementedError, TypeError):
            dtype = np.dtype(object)
        is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
        if not is_number:
            raise SourceError(
                f"{self.where}: expected texts, numbers, or lists of numbers, found {self._type}; write one "
                "of these, or leave the column out"
            )
        if not depth:
            return Column(dtype)
        return self._list_column(dtype, depth)

    def _list_column(self, dtype: np.dtype[Any], depth: int) -> Column:
        sizes = [high for _, high in self._levels] + [0] * (depth - len(self._levels))
        if not self._is_uniform(1, depth):
            raise SourceError(f"{self.where}: the lists inside its lists differ in length; write one length")
        try:
            can_be_missing = dtype.kind == "f" or not self._has_null_lists
            if self._is_uniform(0, depth) and min(sizes) and can_be_missing:
                if np.prod(sizes, dtype=np.float64) > MOST_VALUES:
                    raise SourceError(f"{self.where}: expected up to {MOST_VALUES} values, found {sizes}")
                return Column(dtype, tuple(sizes))
            return list_column(dtype, tuple(max(1, size) for size in sizes[1:]))
        except CodecError as error:
            raise SourceError(f"{self.where}: {error}") from error

    def _is_uniform(self, first: int, depth: int) -> bool:
        return all(low == high for low, high in self._levels[first:depth])


def column_values(cells: pa.Array, column: Column, where: str) -> npt.NDArray[Any]:
    """Return the values (n, *shape) of some cells of a column; raise SourceError where they do not fit it."""
    try:
        cells = plain(cells)
        if column == TEXT:
            return _texts(cells)
        if column.is_ragged:
            return _lists(cells, column)
        if column.shape:
            return _arrays(cells, column)
        return _numbers(cells, column.dtype)
    except (ValueError, pa.ArrowException) as error:
        raise SourceError(f"{where}: expected {column}: {error}") from error


def _texts(cells: pa.Array) -> npt.NDArray[Any]:
    values: npt.NDArray[Any] = np.empty(len(cells), object)
    if len(cells):
        values[:] = pc.fill_null(cells.cast(pa.large_string()), "").to_pylist()
    return values


def _numbers(cells: pa.Array, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    if cells.null_count and dtype.kind != "f":
        raise ValueError(f"{cells.null_count} values are null")
    numbers: npt.NDArray[Any] = cells.to_numpy(zero_copy_only=False)
    return numbers.astype(dtype, copy=False)


def _arrays(cells: pa.Array, column: Column) -> npt.NDArray[Any]:
    values: npt.NDArray[Any] = np.empty((len(cells), *column.shape), column.dtype)
    exists = ~pc.is_null(cells).to_numpy(zero_copy_only=False)
    if not exists.all():
        if column.dtype.kind != "f":
            raise ValueError(f"{(~exists).sum()} arrays are null")
        values[...] = np.nan
    values[exists] = _flat(_existing(cells), column.shape, column.dtype)
    return values


def _lists(cells: pa.Array, column: Column) -> npt.NDArray[Any]:
    form: Any = column.form
    values: npt.NDArray[Any] = np.empty(len(cells), object)
    lengths = pc.fill_null(pc.list_value_length(cells), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    flat = _flat(_values_of(_existing(cells)), form.shape, form.dtype)
    stops = lengths.cumsum()
    for place, (length, stop) in enumerate(zip(lengths.tolist(), stops.tolist(), strict=True)):
        values[place] = flat[stop - length : stop]
    return values


def _existing(cells: pa.Array) -> pa.Array:
    """Return the cells that are not null."""
    # subtle: Arrow's filter gives other values of a slice whose lists of fixed lengths have no nulls
    return cells.filter(pc.is_valid(cells)) if cells.null_count else cells


def _flat(cells: pa.Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Return arrays (n, *shape) of lists that all have the lengths of `shape`."""
    count = len(cells)
    for size in shape:
        lengths = pc.list_value_length(cells)
        if cells.null_count or (len(cells) and pc.min_max(lengths).as_py() != {"min": size, "max": size}):
            raise ValueError(f"found lists of other lengths than {size}")
        cells = _values_of(cells)
    return _numbers(cells, dtype).reshape(count, *shape)


def _signed(kind: pa.DataType) -> str:
    """Return the name of a type with int64 in place of uint64."""
    return type_name(kind).replace("uint64", "int64")


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _values_of(cells: pa.Array) -> pa.Array:
    """Return the values of lists, those of nulls left out, one after another."""
    return cells.flatten()
