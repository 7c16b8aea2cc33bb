"""The layout of `.npz` archives, one for each split: `train.npz` with `tokens`, `labels` and others."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np
from numpy.lib import format as npy_format
from typing_extensions import override

from tokenstore.codecs import TEXT, Column
from tokenstore.writing.export.array_files import npy_bytes, write_npy
from tokenstore.writing.export.base import Exported, Layout, PlainLayout, Stream, Unit
from tokenstore.writing.export.contents import Values

__all__ = ["Npz"]

_TAKEN = ("class_names", "codebook")
"""The arrays beside the columns."""
_METHODS = {"none": zipfile.ZIP_STORED, "deflate": zipfile.ZIP_DEFLATED}
_ROWS_NBYTES = 2**22
_DATE = (1980, 1, 1, 0, 0, 0)


class Npz(PlainLayout, Layout):
    """An `.npz` archive for each split, with all columns, `class_names` and `codebook`."""

    name: ClassVar[str] = "npz"
    compressions: ClassVar[tuple[str, ...]] = tuple(_METHODS)

    @override
    def problem(self, name: str, column: Column) -> str | None:
        if name in _TAKEN:
            return f"its name is taken by {' and '.join(_TAKEN)}"
        return "its samples differ in length" if column.is_ragged and column != TEXT else None

    @override
    def units(self, exported: Exported) -> Iterator[Unit]:
        for split, contents in exported.splits.items():
            yield Unit((f"{split}.npz",), split, 0, len(contents), contents.names)

    @override
    def write(self, exported: Exported, unit: Unit, stream: Stream, folder: Path) -> None:
        method = _METHODS[exported.compression or "none"]
        with zipfile.ZipFile(folder / unit.name, "w") as archive:
            for name in unit.columns:
                with archive.open(_member(name, method), "w", force_zip64=True) as file:
                    write_npy(exported, unit, name, stream, file)
            names, vectors = exported.manifest.class_names, exported.store.codebook
            for name, array in ((_TAKEN[0], names and np.array(names, "U")), (_TAKEN[1], vectors)):
                if array is not None:
                    archive.writestr(_member(name, method), npy_bytes(np.asarray(array)))

    @override
    def read(self, exported: Exported, unit: Unit, folder: Path) -> Iterator[Values]:
        with zipfile.ZipFile(folder / unit.name) as archive:
            for name in unit.columns:
                kind = exported.splits[unit.split].kind(name)
                with archive.open(f"{name}.npy") as file:
                    for rows in _rows(file):
                        yield {name: rows.astype(object) if kind == TEXT else rows}


def _member(name: str, method: int) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(f"{name}.npy", date_time=_DATE)
    member.compress_type = method
    member.external_attr = 0o644 << 16
    return member


def _rows(file: IO[bytes]) -> Iterator[Any]:
    """Yield the rows of an array in the `.npy` format, a few megabytes at a time."""
    npy_format.read_magic(file)
    shape, _, dtype = npy_format.read_array_header_1_0(file)
    row_nbytes = max(1, int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize)
    step = max(1, _ROWS_NBYTES // row_nbytes)
    for start in range(0, shape[0], step):
        count = min(step, shape[0] - start)
        yield np.frombuffer(file.read(count * row_nbytes), dtype).reshape(count, *shape[1:])
