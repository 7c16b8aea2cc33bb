"""The layout of safetensors files: a tensor for each column, and the facts of the store in the metadata."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
from typing_extensions import override

from tokenstore.codecs import Column
from tokenstore.writing.export.array_files import codebook_file
from tokenstore.writing.export.base import Exported, Layout, PlainLayout, Stream, Unit
from tokenstore.writing.export.contents import Values

__all__ = ["SafetensorsFiles"]

_NAMES = {
    "|b1": "BOOL",
    "|u1": "U8",
    "|i1": "I8",
    "<u2": "U16",
    "<i2": "I16",
    "<u4": "U32",
    "<i4": "I32",
    "<u8": "U64",
    "<i8": "I64",
    "<f2": "F16",
    "<f4": "F32",
    "<f8": "F64",
}
"""The names of dtypes in the format."""
_ALIGNMENT = 8
_READ_ROWS = 1024


class SafetensorsFiles(PlainLayout, Layout):
    """A safetensors file for each split, or several of so many rows: `tokens`, `labels`, other columns."""

    name: ClassVar[str] = "safetensors"
    cuts_files: ClassVar[bool] = True

    @override
    def problem(self, name: str, column: Column) -> str | None:
        return "it is no array of numbers" if column.is_ragged else None

    @override
    def units(self, exported: Exported) -> Iterator[Unit]:
        for split, contents in exported.splits.items():
            cuts = exported.cuts(split)
            for number, (start, stop) in enumerate(cuts):
                part = f"-{number:05d}-of-{len(cuts):05d}" if exported.rows_per_file else ""
                yield Unit((f"{split}{part}.safetensors",), split, start, stop, contents.names)

    @override
    def write(self, exported: Exported, unit: Unit, stream: Stream, folder: Path) -> None:
        contents, rows = exported.splits[unit.split], unit.stop - unit.start
        header: dict[str, object] = {"__metadata__": _metadata(exported)}
        stop = 0
        # the largest numbers first, so that every tensor is aligned
        names = sorted(unit.columns, key=lambda name: -contents.kind(name).dtype.itemsize)
        for name in names:
            kind = contents.kind(name)
            start, stop = stop, stop + rows * kind.nbytes
            code = _NAMES[kind.dtype.newbyteorder("<").str]
            header[name] = {"dtype": code, "shape": [rows, *kind.shape], "data_offsets": [start, stop]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % _ALIGNMENT)
        with (folder / unit.name).open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name in names:
                dtype = contents.kind(name).dtype.newbyteorder("<")
                for values in stream([name]):
                    file.write(np.ascontiguousarray(values[name].astype(dtype)).tobytes())

    @override
    def read(self, exported: Exported, unit: Unit, folder: Path) -> Iterator[Values]:
        from safetensors import safe_open

        contents = exported.splits[unit.split]
        with safe_open(folder / unit.name, "numpy") as file:
            for name in unit.columns:
                rows = file.get_slice(name)
                if rows.get_shape() != [unit.stop - unit.start, *contents.kind(name).shape]:
                    raise ValueError(f"tensor {name}: found the shape {rows.get_shape()}")
                nbytes = max(1, contents.kind(name).nbytes)
                step = max(1, min(_READ_ROWS, 2**22 // math.ceil(nbytes)))
                for start in range(0, unit.stop - unit.start, step):
                    yield {name: rows[start : min(start + step, unit.stop - unit.start)]}

    @override
    def extras(self, exported: Exported) -> Mapping[str, bytes]:
        return codebook_file(exported)


def _metadata(exported: Exported) -> dict[str, str]:
    """Return the facts of the store as texts."""
    manifest = exported.manifest
    facts: dict[str, str] = {"tokenizer": manifest.tokenizer.name}
    if manifest.tokenizer.fingerprint is not None:
        facts["fingerprint"] = manifest.tokenizer.fingerprint
    facts["codebook_sizes"] = json.dumps(list(manifest.codebook_sizes))
    if manifest.class_names is not None:
        facts["class_names"] = json.dumps(list(manifest.class_names))
    return facts
