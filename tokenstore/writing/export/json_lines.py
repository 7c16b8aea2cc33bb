r"""The layout of JSON lines, as RAR, TiTok and AliTok read them: an object a line.

{"class_id": 207, "tokens": [512, 3, 77, ...], "caption": "a cat"}
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from tokenstore.codecs import TEXT, Column
from tokenstore.errors import StoreError
from tokenstore.format import LABELS, TOKENS
from tokenstore.writing.export.array_files import codebook_file
from tokenstore.writing.export.base import Exported, Layout, PlainLayout, Stream, Unit
from tokenstore.writing.export.contents import Values

__all__ = ["JsonLines"]

CLASS = "class_id"
"""The field of the label."""
_READ_LINES = 1024


class JsonLines(PlainLayout, Layout):
    """A file of JSON lines for each split, or several; a sample's codes are one flat list."""

    name: ClassVar[str] = "jsonl"
    compressions: ClassVar[tuple[str, ...]] = ("none", "gzip")
    cuts_files: ClassVar[bool] = True

    @override
    def problem(self, name: str, column: Column) -> str | None:
        return f"its name is that of the label's field, {CLASS}" if name == CLASS else None

    @override
    def check(self, exported: Exported) -> tuple[str, ...]:
        shape = next(iter(exported.splits.values())).kind(TOKENS).shape
        if len(shape) == 1:
            return ()
        return (f"a line's codes are one list, row by row: their shape is {list(shape)}",)

    @override
    def units(self, exported: Exported) -> Iterator[Unit]:
        ending = ".jsonl.gz" if exported.compression == "gzip" else ".jsonl"
        for split, contents in exported.splits.items():
            cuts = exported.cuts(split)
            for number, (start, stop) in enumerate(cuts):
                part = f"-{number:05d}-of-{len(cuts):05d}" if exported.rows_per_file else ""
                yield Unit((f"{split}{part}{ending}",), split, start, stop, contents.names)

    @override
    def write(self, exported: Exported, unit: Unit, stream: Stream, folder: Path) -> None:
        with (folder / unit.name).open("wb") as raw:
            file: Any = raw
            if exported.compression == "gzip":
                file = gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0)
            row = unit.start
            for values in stream(unit.columns):
                columns = {_field(name): _as_json(rows, name) for name, rows in values.items()}
                for place in range(len(values[TOKENS])):
                    line = {name: cells[place] for name, cells in columns.items()}
                    try:
                        text = json.dumps(line, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
                    except ValueError as error:
                        raise StoreError(
                            f"{unit.split}, sample {row + place}: an infinite number has no form in JSON; "
                            "leave its column out, or export to another layout"
                        ) from error
                    file.write(text.encode() + b"\n")
                row += len(values[TOKENS])
            if file is not raw:
                file.close()

    @override
    def read(self, exported: Exported, unit: Unit, folder: Path) -> Iterator[Values]:
        kinds = exported.splits[unit.split].kinds
        opened = gzip.open if exported.compression == "gzip" else open
        with opened(folder / unit.name, "rb") as file:
            lines: list[Any] = []
            for line in file:
                lines.append(json.loads(line))
                if len(lines) == _READ_LINES:
                    yield _values(lines, kinds)
                    lines = []
            if lines:
                yield _values(lines, kinds)

    @override
    def extras(self, exported: Exported) -> Mapping[str, bytes]:
        return codebook_file(exported)


def _field(name: str) -> str:
    return CLASS if name == LABELS else name


def _as_json(rows: npt.NDArray[Any], name: str) -> list[Any]:
    """Return the values of a column as JSON values; NaN is null, and codes are flat lists."""
    if name == TOKENS:
        flat: list[Any] = rows.reshape(len(rows), -1).tolist()
        return flat
    return [json_value(value) for value in rows]


def json_value(value: Any) -> Any:
    """Return a value of a column as a JSON value: a text, a number, null for NaN, or nested lists."""
    if isinstance(value, str):
        return value
    if isinstance(value, np.ndarray):
        return without_nan(value.tolist()) if value.dtype.kind == "f" else value.tolist()
    return without_nan(value.item())


def without_nan(value: Any) -> Any:
    """Return nested lists of numbers with None for each NaN."""
    if isinstance(value, list):
        return [without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _values(lines: list[Any], kinds: Mapping[str, Column]) -> Values:
    return {name: values_of([line[_field(name)] for line in lines], kind) for name, kind in kinds.items()}


def values_of(cells: list[Any], kind: Column) -> npt.NDArray[Any]:
    """Return the values of a column that JSON values stand for."""
    if kind == TEXT or kind.is_ragged:
        values: npt.NDArray[Any] = np.empty(len(cells), object)
        for place, cell in enumerate(cells):
            values[place] = cell if kind == TEXT else _list(cell, kind)
        return values
    wide: dict[str, Any] = {"f": np.float64, "u": np.uint64, "i": np.int64}  # None is NaN in the first
    return np.array(cells, wide.get(kind.dtype.kind, kind.dtype))


def _list(cell: Any, kind: Column) -> npt.NDArray[Any]:
    form: Any = kind.form
    if not cell:
        return np.empty((0, *form.shape), form.dtype)
    values: npt.NDArray[Any] = np.array(cell, np.float64 if form.dtype.kind == "f" else form.dtype)
    return values.astype(form.dtype)
