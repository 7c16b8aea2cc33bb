"""Columns of samples as Arrow has them, with the facts by which Hugging Face's libraries know their kinds.

Codes are nested lists of fixed sizes, labels integers of the class `ClassLabel`, pictures structs
{bytes, path}.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenstore.codecs import TEXT, Column
from tokenstore.format import LABELS
from tokenstore.writing.export.base import Exported, Unit
from tokenstore.writing.export.contents import IMAGE, SplitContents, Values

__all__ = [
    "LABEL",
    "arrow_schema",
    "features",
    "file_units",
    "notes",
    "problem",
    "read_batch",
    "record_batch",
]

LABEL = "label"
"""The name of the labels' column."""
_FILE_NBYTES = 2**28
"""The bytes of values in a file, about."""
_SPLIT = re.compile(r"\w+")
_PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def problem(name: str) -> str | None:
    """Return why a column cannot have its name; None if it can."""
    return f"its name is that of the labels' column, {LABEL}" if name == LABEL else None


def notes(exported: Exported) -> tuple[str, ...]:
    """Return notes on what Hugging Face's libraries do not take."""
    found = []
    names = exported.manifest.class_names
    if names is not None and not _are_classes(names):
        found.append("two classes have one name: the names are in tokenstore-export.json alone")
    odd = [split for split in exported.splits if not _SPLIT.fullmatch(split)]
    if odd:
        found.append(f"split {odd[0]}: the library datasets takes letters, digits and _ in names of splits")
    return tuple(found)


def _are_classes(names: Sequence[str]) -> bool:
    return len(set(names)) == len(names)


def file_units(exported: Exported, pattern: str) -> Iterator[Unit]:
    """Yield a unit for each file of rows, whose path is the pattern of `{split}` and `{part}`."""
    for split, contents in exported.splits.items():
        cuts = exported.cuts(split, _file_rows(contents))
        for number, (start, stop) in enumerate(cuts):
            path = pattern.format(split=split, part=f"{number:05d}-of-{len(cuts):05d}")
            yield Unit((path,), split, start, stop, contents.names)


def _file_rows(contents: SplitContents) -> int:
    """Return the samples of a file whose values take about 256 MB."""
    nbytes = sum(kind.nbytes for kind in contents.kinds.values())
    if contents.pictures is not None:
        nbytes += contents.pictures.nbytes
    return max(1, _FILE_NBYTES // max(1, nbytes))


def arrow_schema(exported: Exported, unit: Unit) -> pa.Schema:
    """Return the schema of a unit's rows, with the facts for Hugging Face's libraries."""
    fields = [(_field(name), _type(exported, unit.split, name)) for name in unit.columns]
    about = {"info": {"features": features(exported, unit.split)}}
    return pa.schema(fields, {"huggingface": json.dumps(about)})


def features(exported: Exported, split: str) -> dict[str, Any]:
    """Return the kinds of the columns of a split, as `datasets.Features` writes them."""
    contents, names = exported.splits[split], exported.manifest.class_names
    described: dict[str, Any] = {}
    for name in contents.names:
        if name == IMAGE:
            described[name] = {"_type": "Image"}
        elif name == LABELS:
            is_class = names is not None and _are_classes(names)
            of_class = {"names": list(names or ()), "_type": "ClassLabel"}
            described[LABEL] = of_class if is_class else {"dtype": "int64", "_type": "Value"}
        else:
            described[name] = _feature(_type(exported, split, name))
    return described


def _feature(kind: pa.DataType) -> dict[str, Any]:
    if pa.types.is_fixed_size_list(kind):
        return {"feature": _feature(kind.value_type), "length": kind.list_size, "_type": "Sequence"}
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "Sequence"}
    name = {"halffloat": "float16", "float": "float32", "double": "float64"}.get(str(kind), str(kind))
    return {"dtype": name, "_type": "Value"}


def _field(name: str) -> str:
    return LABEL if name == LABELS else name


def _type(exported: Exported, split: str, name: str) -> pa.DataType:
    if name == IMAGE:
        return _PICTURE
    if name == LABELS:
        return pa.int64()
    kind = exported.splits[split].kind(name)
    if kind == TEXT:
        return pa.string()
    if kind.is_ragged:
        form: Any = kind.form
        return pa.list_(_array_type(form.dtype, form.shape))
    return _array_type(kind.dtype, kind.shape)


def _array_type(dtype: np.dtype[Any], shape: Sequence[int]) -> pa.DataType:
    kind = pa.from_numpy_dtype(dtype)
    for size in reversed(shape):
        kind = pa.list_(kind, size)
    return kind


def record_batch(values: Values, schema: pa.Schema, unit: Unit, first: int, ending: str) -> pa.RecordBatch:
    """Return rows of the schema; pictures are named after their row, counted from `first`."""
    arrays = []
    for name, field in zip(unit.columns, schema, strict=True):
        rows = values[name]
        if name == IMAGE:
            paths = [f"{unit.split}-{first + place}.{ending}" for place in range(len(rows))]
            arrays.append(
                pa.StructArray.from_arrays([pa.array(rows, pa.binary()), pa.array(paths)], ["bytes", "path"])
            )
        else:
            arrays.append(_array(rows, field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _array(rows: npt.NDArray[Any], kind: pa.DataType) -> pa.Array:
    if rows.dtype == object and not pa.types.is_list(kind):
        return pa.array(rows.tolist(), kind)
    if pa.types.is_list(kind):
        lengths = np.array([0, *(len(each) for each in rows)])
        inner = kind.value_type
        flat = np.concatenate(rows.tolist()) if lengths.sum() else np.empty(0, _leaf(inner).to_pandas_dtype())
        return pa.ListArray.from_arrays(pa.array(lengths.cumsum(), pa.int32()), _nested(flat, inner))
    return _nested(rows, kind)


def _nested(rows: npt.NDArray[Any], kind: pa.DataType) -> pa.Array:
    """Return an array (n, ...) as nested lists of fixed sizes."""
    if not pa.types.is_fixed_size_list(kind):
        return pa.array(np.ascontiguousarray(rows).reshape(-1)).cast(kind)
    inner = rows.reshape(-1, *rows.shape[2:])
    return pa.FixedSizeListArray.from_arrays(_nested(inner, kind.value_type), type=kind)


def _leaf(kind: pa.DataType) -> pa.DataType:
    while pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind):
        kind = kind.value_type
    return kind


def read_batch(batch: pa.RecordBatch, exported: Exported, unit: Unit) -> Values:
    """Return the values of rows that were read back."""
    return {
        name: _values(
            batch.column(_field(name)), None if name == IMAGE else exported.splits[unit.split].kind(name)
        )
        for name in unit.columns
    }


def _values(cells: pa.Array, kind: Column | None) -> npt.NDArray[Any]:
    if kind is None:
        return _objects(cells.field("bytes").to_pylist())
    if kind == TEXT:
        return _objects(cells.to_pylist())
    if kind.is_ragged:
        form: Any = kind.form
        return _objects(_numbers(cell.values, form.shape) for cell in cells)
    return _numbers(cells, kind.shape)


def _objects(values: Sequence[Any] | Iterator[Any]) -> npt.NDArray[Any]:
    listed = list(values)
    array: npt.NDArray[Any] = np.empty(len(listed), object)
    for place, value in enumerate(listed):
        array[place] = value
    return array


def _numbers(cells: pa.Array, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    count = len(cells)
    while pa.types.is_fixed_size_list(cells.type):
        cells = cells.flatten()
    numbers: npt.NDArray[Any] = cells.to_numpy(zero_copy_only=False)
    return numbers.reshape(count, *shape)
