"""The layout of Parquet files, as Hugging Face's `datasets` and viewers of data sets read them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import pyarrow.parquet as pq
from typing_extensions import override

from tokenstore.codecs import Column
from tokenstore.format import LABELS
from tokenstore.parquet_pages import open_parquet
from tokenstore.writing.export import arrow
from tokenstore.writing.export.array_files import codebook_file
from tokenstore.writing.export.base import Exported, Layout, PlainLayout, Stream, Unit
from tokenstore.writing.export.card import CARD, card_of
from tokenstore.writing.export.contents import Values

__all__ = ["ParquetFiles"]

_PICTURE_ROWS = 100
"""The rows of a row group where samples have pictures, so that a viewer reads few of them."""


class ParquetFiles(PlainLayout, Layout):
    """Parquet files `data/train-00000-of-00004.parquet`: tokens, label, further columns, pictures."""

    name: ClassVar[str] = "parquet"
    compressions: ClassVar[tuple[str, ...]] = ("zstd", "snappy", "gzip", "none")
    cuts_files: ClassVar[bool] = True
    takes_images: ClassVar[bool] = True

    @override
    def problem(self, name: str, column: Column) -> str | None:
        return arrow.problem(name)

    @override
    def check(self, exported: Exported) -> tuple[str, ...]:
        return arrow.notes(exported)

    @override
    def units(self, exported: Exported) -> Iterator[Unit]:
        return arrow.file_units(exported, "data/{split}-{part}.parquet")

    @override
    def write(self, exported: Exported, unit: Unit, stream: Stream, folder: Path) -> None:
        contents = exported.splits[unit.split]
        schema, first = arrow.arrow_schema(exported, unit), unit.start
        size = None if contents.pictures is None else _PICTURE_ROWS
        ending = "" if contents.pictures is None else contents.pictures.format
        with pq.ParquetWriter(folder / unit.name, schema, compression=exported.compression) as writer:
            for values in stream(unit.columns, size):
                batch = arrow.record_batch(values, schema, unit, first, ending)
                writer.write_batch(batch, row_group_size=max(1, len(batch)))
                first += len(batch)

    @override
    def read(self, exported: Exported, unit: Unit, folder: Path) -> Iterator[Values]:
        file = open_parquet(folder / unit.name)
        for group in range(file.num_row_groups):
            for batch in file.read_row_group(group, use_threads=False).to_batches():
                yield arrow.read_batch(batch, exported, unit)

    @override
    def extras(self, exported: Exported) -> Mapping[str, bytes]:
        return {**codebook_file(exported), CARD: card_of(self, exported, {LABELS: arrow.LABEL})}
