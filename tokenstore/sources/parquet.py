"""The source of images in Parquet files, as the Hugging Face hub stores them or as plain columns.

The image column holds encoded bytes, a struct of `bytes` and `path`, or paths relative to the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Unpack

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from typing_extensions import override

from tokenstore.errors import SourceError
from tokenstore.sources.base import CodeSource, GroupedSplit, ImageSource, Labels
from tokenstore.sources.files import SourceFile
from tokenstore.sources.further import requested_fields
from tokenstore.sources.layouts.parquet_codes import open_parquet_codes
from tokenstore.sources.listings import SavedListings
from tokenstore.sources.names import check_range, digest
from tokenstore.sources.options import OriginalsOptions
from tokenstore.sources.parquet_cells import ParquetRequest
from tokenstore.sources.parquet_columns import ColumnOptions, choose_columns, code_column, labelled_choice
from tokenstore.sources.parquet_footers import ListRowGroups, first_schema, row_groups
from tokenstore.sources.parquet_further import RowGroups, parquet_columns
from tokenstore.sources.parquet_labels import labels_of
from tokenstore.sources.registry import SourceKind
from tokenstore.sources.shard_files import find_shards, folder_has_shards, has_shards
from tokenstore.storage import public_url

ENDINGS = (".parquet",)


@dataclass(frozen=True)
class ParquetSplit(GroupedSplit):
    """The rows of some Parquet files, in file order."""

    files: tuple[SourceFile, ...]
    column: str
    groups: RowGroups
    all_labels: Labels | None
    allow_outside_paths: bool = False
    column_is_named: bool = False
    """True if the user named the column, which the samples' names say then."""

    @override
    def __len__(self) -> int:
        return int(self.groups.starts[-1])

    @override
    def names(self, start: int, stop: int) -> pa.Array:
        return self.groups.names(self.files, start, stop, f".{self.column}" if self.column_is_named else "")

    @override
    def labels(self, start: int, stop: int) -> Labels | None:
        check_range(start, stop, len(self))
        return None if self.all_labels is None else self.all_labels[start:stop]

    @override
    def fingerprint(self) -> str:
        files = repr([(file.name, file.nbytes) for file in self.files])
        return digest(files, self.column, self.groups.files, self.groups.starts, self.all_labels)

    @override
    def group_starts(self) -> npt.NDArray[np.int64]:
        return self.groups.starts

    @override
    def request(self, start: int, stop: int) -> ParquetRequest:
        check_range(start, stop, len(self))
        pieces = [
            (self.files[file], group, first, last)
            for file, group, first, last in self.groups.pieces(start, stop)
        ]
        return ParquetRequest(tuple(pieces), self.column, self.allow_outside_paths)


def open_parquet(
    location: str | Path,
    *,
    label_column: str | None = None,
    no_labels: bool = False,
    columns: Sequence[str] | None = None,
    token_column: str | None = None,
    listings: SavedListings | None = None,
    **originals: Unpack[OriginalsOptions],
) -> ImageSource | CodeSource:
    """List the rows of Parquet files: one file, a pattern, or a folder of files.

    The location may be a URL. `originals` are the fields of OriginalsOptions. `columns` are further columns,
    each a name or `NAME=COLUMN` for another name in the store. A split whose labels are all -1, as secret
    test labels are, or whose files lack the column, has no labels. Images whose paths lead out of their
    file's folder are bad samples, unless `allow_outside_paths`. What files say of their rows is taken
    from `listings`, and saved there. Rows are ready codes where `token_column` says so, or where no
    column is one of images and one is of lists of whole numbers.

    Raises SourceError if no column holds images, if a named column is not there or does not fit, if files
    differ in their columns, and for labels that are null, negative or, in a named column, not whole.
    """
    where, image_column = public_url(str(location)), originals.get("image_column")
    shards = find_shards(location, ENDINGS, originals.get("source_storage_options"), listings)
    schemas = {split: first_schema(files, listings) for split, files in shards.splits.items()}
    schema = next(iter(schemas.values()))
    fields = requested_fields(columns, where)
    asked = ColumnOptions(image_column, label_column, no_labels, tuple(fields.values()))
    codes = code_column(schema, where, token_column, image_column)
    if codes is not None:
        return open_parquet_codes(shards, schemas, where, codes, fields, asked, listings)
    chosen = labelled_choice(schemas, label_column, lambda each: choose_columns(each, where, asked))
    assert chosen.image is not None
    labelled = chosen.labelled(shards.splits, schemas)
    groups = {}
    for split, files in shards.splits.items():
        task = ListRowGroups(chosen.image, chosen.label if split in labelled else None, chosen.further)
        groups[split] = RowGroups(*row_groups(files, task, listings))
        if not groups[split].starts[-1]:
            raise SourceError(f"{where}: the Parquet files of split {split} have no rows")
    labels, class_names, unused = labels_of(labelled, chosen, where, listings)
    splits = {
        split: ParquetSplit(
            files,
            chosen.image,
            groups[split],
            labels.get(split),
            originals.get("allow_outside_paths", False),
            image_column is not None,
        )
        for split, files in shards.splits.items()
    }
    notes = (*shards.notes, *chosen.notes, *chosen.unlabelled(schemas))
    further = parquet_columns(fields, shards.splits, groups, schema, where)
    return ImageSource("parquet", where, splits, class_names, notes, unused, further)


SOURCE = SourceKind(
    open=open_parquet,
    holds=partial(folder_has_shards, endings=ENDINGS),
    looked_for=".parquet files",
    endings=ENDINGS,
    options=frozenset(
        {
            *("image_column", "label_column", "no_labels", "allow_outside_paths"),
            *("source_storage_options", "columns", "token_column", "listings"),
        }
    ),
    holds_url=partial(has_shards, endings=ENDINGS),
)
"""The kind `parquet`."""
