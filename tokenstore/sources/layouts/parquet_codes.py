"""Ready codes in a column of Parquet files: lists, or lists of lists, of one shape in all rows.

`sources.parquet` opens Parquet files, and comes here where rows are codes and not images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from typing_extensions import override

from tokenstore.errors import SourceError
from tokenstore.sources.base import CodeSource, SourceColumn
from tokenstore.sources.code_values import check_shape
from tokenstore.sources.files import SourceFile
from tokenstore.sources.layouts.rows import CodeRows, LayoutSplit
from tokenstore.sources.listings import SavedListings
from tokenstore.sources.names import digest
from tokenstore.sources.parquet_columns import ColumnOptions, choose_beside_codes, labelled_choice
from tokenstore.sources.parquet_footers import ListRowGroups, row_groups
from tokenstore.sources.parquet_further import RowGroups, parquet_columns
from tokenstore.sources.parquet_labels import labels_of
from tokenstore.sources.shard_files import Shards

__all__ = ["open_parquet_codes"]


@dataclass(frozen=True)
class ParquetRows(CodeRows):
    """The codes in one column of some Parquet files, in file order."""

    values: SourceColumn
    files: tuple[SourceFile, ...]
    groups: RowGroups
    name: str

    @property
    @override
    def where(self) -> str:
        return f"{self.files[0]}: column {self.name!r}"

    @property
    @override
    def grid(self) -> tuple[int, ...]:
        return self.values.column.shape

    @override
    def __len__(self) -> int:
        return int(self.groups.starts[-1])

    @override
    def rows(self, start: int, stop: int) -> npt.NDArray[np.generic]:
        return self.values.read(start, stop)

    @override
    def names(self, start: int, stop: int) -> pa.Array:
        return self.groups.names(self.files, start, stop)

    @override
    def fingerprint(self) -> str:
        files = repr([(file.name, file.nbytes) for file in self.files])
        return digest(files, self.groups.files, self.groups.starts, self.values.fingerprint())


def open_parquet_codes(
    shards: Shards,
    schemas: Mapping[str, pa.Schema],
    where: str,
    codes: str,
    fields: Mapping[str, str],
    asked: ColumnOptions,
    listings: SavedListings | None,
) -> CodeSource:
    """List the rows of Parquet files whose column `codes` has a sample's codes.

    `schemas` are those of the first files of the splits, `fields` are the further columns by their names in
    the store. The column is read once, since only its values say the shape of a sample. Raises
    SourceError for lists of several shapes, and what `open_parquet` raises for labels and further
    columns.
    """
    schema = next(iter(schemas.values()))
    chosen = labelled_choice(
        schemas, asked.label_column, lambda each: choose_beside_codes(each, where, codes, asked)
    )
    labelled = chosen.labelled(shards.splits, schemas)
    groups: dict[str, RowGroups] = {}
    for split, files in shards.splits.items():
        task = ListRowGroups(None, chosen.label if split in labelled else None, chosen.further)
        groups[split] = RowGroups(*row_groups(files, task, listings))
        if not groups[split].starts[-1]:
            raise SourceError(f"{where}: the Parquet files of split {split} have no rows")
    labels, class_names, unused = labels_of(labelled, chosen, where, listings)
    values = parquet_columns({"codes": codes}, shards.splits, groups, schema, where)
    kind = next(iter(values.values()))["codes"].column
    if kind.is_ragged:
        raise SourceError(
            f"{where}: column {codes!r}: expected lists of one length in all rows, found several; pad "
            "them, or write a source for each length"
        )
    check_shape(kind.dtype, (1, *kind.shape), f"{where}: column {codes!r}")
    splits = {
        split: LayoutSplit(
            ParquetRows(values[split]["codes"], files, groups[split], codes), labels.get(split)
        )
        for split, files in shards.splits.items()
    }
    further = parquet_columns(fields, shards.splits, groups, schema, where)
    return CodeSource(
        kind="parquet",
        location=where,
        splits=splits,
        grid=kind.shape,
        class_names=class_names,
        notes=(*shards.notes, *chosen.notes, *chosen.unlabelled(schemas)),
        unused_labels=unused,
        further=further if fields else {},
    )
