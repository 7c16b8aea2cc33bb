"""The layout of `.npy` files, one for each column of each split: `train.npy`, `train-labels.npy` ..."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
from typing_extensions import override

from tokenstore.codecs import TEXT, Column
from tokenstore.writing.export.array_files import codebook_file, column_path, npy_bytes, read_rows, write_npy
from tokenstore.writing.export.base import Exported, Layout, PlainLayout, Stream, Unit
from tokenstore.writing.export.contents import Values

__all__ = ["Npy"]


class Npy(PlainLayout, Layout):
    """A `.npy` file for each column: `train.npy` (N, *grid), `train-labels.npy`, `train-caption.npy`."""

    name: ClassVar[str] = "npy"

    @override
    def problem(self, name: str, column: Column) -> str | None:
        return "its samples differ in length" if column.is_ragged and column != TEXT else None

    @override
    def units(self, exported: Exported) -> Iterator[Unit]:
        for split, contents in exported.splits.items():
            for name in contents.names:
                path = column_path(split, name, ".npy").as_posix()
                yield Unit((path,), split, 0, len(contents), (name,))

    @override
    def write(self, exported: Exported, unit: Unit, stream: Stream, folder: Path) -> None:
        with (folder / unit.name).open("wb") as file:
            write_npy(exported, unit, unit.columns[0], stream, file)

    @override
    def read(self, exported: Exported, unit: Unit, folder: Path) -> Iterator[Values]:
        stored = np.load(folder / unit.name, mmap_mode="r", allow_pickle=False)
        kind = exported.splits[unit.split].kind(unit.columns[0])
        yield from read_rows(stored, unit.columns[0], kind)

    @override
    def extras(self, exported: Exported) -> Mapping[str, bytes]:
        names = exported.manifest.class_names
        of_classes = {} if names is None else {"class_names.npy": npy_bytes(np.array(names, "U"))}
        return {**codebook_file(exported), **of_classes}
