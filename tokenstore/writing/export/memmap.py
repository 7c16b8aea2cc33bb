"""The layout of raw memory maps: the bytes of each column of each split, and `metadata.json`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from typing_extensions import override

from tokenstore.codecs import Column
from tokenstore.format import encode_json
from tokenstore.sources.layouts.memory_maps import METADATA
from tokenstore.writing.export.array_files import codebook_file, column_path, read_rows, stored_dtype
from tokenstore.writing.export.base import Exported, Layout, PlainLayout, Stream, Unit
from tokenstore.writing.export.contents import Values

__all__ = ["Memmap"]


class Memmap(PlainLayout, Layout):
    """A file of raw little-endian numbers for each column, for `np.memmap`, and `metadata.json`."""

    name: ClassVar[str] = "memmap"

    @override
    def problem(self, name: str, column: Column) -> str | None:
        return "it is no array of numbers" if column.is_ragged else None

    @override
    def check(self, exported: Exported) -> tuple[str, ...]:
        return ("np.memmap(file, dtype, 'r', shape=shape) with the dtype and the shape in metadata.json",)

    @override
    def units(self, exported: Exported) -> Iterator[Unit]:
        for split, contents in exported.splits.items():
            for name in contents.names:
                path = column_path(split, name, ".bin").as_posix()
                yield Unit((path,), split, 0, len(contents), (name,))

    @override
    def write(self, exported: Exported, unit: Unit, stream: Stream, folder: Path) -> None:
        dtype = stored_dtype(exported, unit.split, unit.columns[0])
        with (folder / unit.name).open("wb") as file:
            for values in stream(unit.columns):
                file.write(np.ascontiguousarray(values[unit.columns[0]].astype(dtype)).tobytes())

    @override
    def read(self, exported: Exported, unit: Unit, folder: Path) -> Iterator[Values]:
        name = unit.columns[0]
        dtype, shape = self._array(exported, unit)
        stored = np.memmap(folder / unit.name, dtype, "r")
        if stored.size != math.prod(shape):
            raise ValueError(f"expected {math.prod(shape)} numbers, found {stored.size}")
        yield from read_rows(stored.reshape(shape), name, exported.splits[unit.split].kind(name))

    @override
    def extras(self, exported: Exported) -> Mapping[str, bytes]:
        arrays: dict[str, dict[str, Any]] = {}
        for unit in self.units(exported):
            dtype, shape = self._array(exported, unit)
            about = {"split": unit.split, "column": unit.columns[0], "dtype": dtype.str, "shape": list(shape)}
            arrays[unit.name] = about
        manifest = exported.manifest
        metadata = {
            "arrays": arrays,
            "codebook_sizes": list(manifest.codebook_sizes),
            "tokenizer": manifest.tokenizer.to_dict(),
            "class_names": None if manifest.class_names is None else list(manifest.class_names),
        }
        return {**codebook_file(exported), METADATA: encode_json(metadata)}

    def _array(self, exported: Exported, unit: Unit) -> tuple[np.dtype[Any], tuple[int, ...]]:
        kind = exported.splits[unit.split].kind(unit.columns[0])
        return kind.dtype.newbyteorder("<"), (unit.stop - unit.start, *kind.shape)
