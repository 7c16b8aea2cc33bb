"""Further columns of Parquet files, read row group by row group when they are stored."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from typing_extensions import override

from tokenstore.codecs import TEXT, Column
from tokenstore.errors import SourceError
from tokenstore.sources.arrow_types import is_text
from tokenstore.sources.arrow_values import Extent, column_values
from tokenstore.sources.base import SourceColumn
from tokenstore.sources.files import SourceFile
from tokenstore.sources.further import missing_field
from tokenstore.sources.names import check_range, digest, printable
from tokenstore.sources.parquet_cells import column_cells
from tokenstore.sources.parquet_columns import type_of

__all__ = ["RowGroups", "parquet_columns"]


@dataclass(frozen=True)
class RowGroups:
    """The row groups of a split, one element a row group."""

    files: npt.NDArray[np.int32]
    """The index of the file in the split."""
    numbers: npt.NDArray[np.int32]
    """The number of the row group in the file."""
    starts: npt.NDArray[np.int64]
    """The first sample of each row group, and at the end the number of samples."""

    def pieces(self, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield the pieces of samples [start, stop): (file, row group, first row, last row + 1 in it)."""
        first = int(np.searchsorted(self.starts, start, "right")) - 1
        for group in range(first, int(np.searchsorted(self.starts, stop))):
            begin = int(self.starts[group])
            rows = max(start - begin, 0), min(stop, int(self.starts[group + 1])) - begin
            yield int(self.files[group]), int(self.numbers[group]), *rows

    def names(self, files: Sequence[SourceFile], start: int, stop: int, ending: str = "") -> pa.Array:
        """Return printable names of samples [start, stop): the file, the row in it, and an ending."""
        check_range(start, stop, int(self.starts[-1]))
        samples = np.arange(start, stop)
        numbers = self.files[np.searchsorted(self.starts, samples, "right") - 1]
        rows = samples - self.starts[np.searchsorted(self.files, numbers)]
        names = [printable(os.fsencode(file.name)) for file in files]
        pairs = zip(numbers.tolist(), rows.tolist(), strict=True)
        return pa.array([f"{names[file]}[{row}]{ending}" for file, row in pairs], pa.string())


@dataclass(frozen=True)
class ParquetColumn(SourceColumn):
    """One column of some Parquet files, in file order."""

    kind: Column
    files: tuple[SourceFile, ...]
    field: str
    """The column's name in the files, or that of a field of structs, `COLUMN.FIELD`."""
    nested: tuple[str, ...]
    """The names of the fields that lead to the values, where the column is one of structs."""
    groups: RowGroups
    where: str

    @property
    @override
    def column(self) -> Column:
        return self.kind

    @override
    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        check_range(start, stop, int(self.groups.starts[-1]))
        values = [np.empty((0, *self.kind.shape), self.kind.dtype)]
        for file, *piece in self.groups.pieces(start, stop):
            cells = column_cells(self.files[file], piece[0], self.field, piece[1], piece[2])
            values += [column_values(_within(each, self.nested), self.kind, self.where) for each in cells]
        return np.concatenate(values)

    @override
    def fingerprint(self) -> str:
        return digest(self.field, str(self.kind))  # the files are in that of the split


def parquet_columns(
    fields: Mapping[str, str],
    files: Mapping[str, tuple[SourceFile, ...]],
    groups: Mapping[str, RowGroups],
    schema: pa.Schema,
    where: str,
) -> dict[str, dict[str, SourceColumn]]:
    """Return the further columns of each split: `fields` are their names in the files, by those in the store.

    Columns of texts and of floats are taken by their type. Others are read once, since lists of one length
    are arrays, and integers must not be null. Raises SourceError for a column that is not there, or that no
    column can hold.
    """
    further: dict[str, dict[str, SourceColumn]] = {split: {} for split in files}
    for name, field in fields.items():
        type_ = type_of(schema, field)
        if type_ is None:
            raise missing_field(where, field, schema.names)
        at = f"{where}: column {field!r}"
        nested = () if field in schema.names else tuple(field.split(".")[1:])
        kind = TEXT if is_text(type_) else _kind(field, nested, files, groups, at)
        for split, of_split in files.items():
            further[split][name] = ParquetColumn(kind, of_split, field, nested, groups[split], at)
    return further


def _within(cells: pa.Array, nested: tuple[str, ...]) -> pa.Array:
    """Return the values of a field of structs; of a struct that is null, null."""
    for name in nested:
        cells = pc.struct_field(cells, name)
    return cells


def _kind(
    field: str,
    nested: tuple[str, ...],
    files: Mapping[str, tuple[SourceFile, ...]],
    groups: Mapping[str, RowGroups],
    where: str,
) -> Column:
    extent = Extent(where)
    for split, of_split in files.items():
        for file, group, start, stop in groups[split].pieces(0, int(groups[split].starts[-1])):
            try:
                for cells in column_cells(of_split[file], group, field, start, stop):
                    extent.add(_within(cells, nested))
                    if extent.is_known:
                        return extent.column()
            except ValueError as error:
                raise SourceError(f"{where}: {error}") from error
    return extent.column()
