"""Lines of JSON as tables of Arrow."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

__all__ = ["parsed_lines"]

_MOST_INT64 = 2.0**63


def parsed_lines(data: bytes, schema: pa.Schema, further: Sequence[str]) -> pa.Table:
    """Return the fields of whole lines: those of the schema, and `further` ones of whatever type they have.

    Whole numbers are int64, or uint64 where some are too large for that. Raises what Arrow raises for lines
    that do not fit the schema, and ValueError for what is not an object a line.
    """
    lines = sum(1 for line in data.split(b"\n") if line.strip())
    table = _parsed(data, schema, "infer" if further else "ignore")
    if len(table) != lines:
        raise ValueError(f"expected an object a line, found {len(table)} in {lines} lines")
    for name in further:
        # subtle: Arrow takes whole numbers above int64 for floats, and rounds them
        kind = _as_uint64(table[name]) if name in table.column_names else None
        if kind is not None:
            try:
                exact = _parsed(data, schema.append(pa.field(name, kind)), "ignore")
            except pa.ArrowInvalid:  # numbers with a point or an exponent
                continue
            table = table.set_column(table.column_names.index(name), name, exact[name])
    return table


def _parsed(data: bytes, schema: pa.Schema, unexpected: str) -> pa.Table:
    return pj.read_json(
        _arrow_file(data),
        read_options=pj.ReadOptions(use_threads=False, block_size=max(len(data), 1)),
        parse_options=pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior=unexpected),
    )


def _as_uint64(cells: pa.ChunkedArray) -> pa.DataType | None:
    """Return the type of floats, or lists of them, with uint64 in their place; None if none is that large."""
    depth, values = 0, cells
    while pa.types.is_list(values.type):
        values, depth = pc.list_flatten(values), depth + 1
    if not pa.types.is_float64(values.type):
        return None
    most = pc.max(values).as_py()
    if most is None or most < _MOST_INT64:
        return None
    kind = pa.uint64()
    for _ in range(depth):
        kind = pa.list_(kind)
    return kind


def _arrow_file(data: bytes) -> pa.BufferReader:
    """Return a file in Arrow's own memory: its threads, which read ahead, must hold no object of Python's."""
    buffer = pa.allocate_buffer(len(data))
    memoryview(buffer).cast("B")[:] = data
    return pa.BufferReader(buffer)
