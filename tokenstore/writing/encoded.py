"""One shard's files as bytes: encoded and checked, before any of them is written."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tokenstore.codecs import box_problem, code_dtype
from tokenstore.errors import CodecError
from tokenstore.format import (
    SAMPLES_SCHEMA,
    TOKENS,
    VIEW_BOXES,
    ArrayLayout,
    FileRecord,
    file_record,
    sharding,
)
from tokenstore.writing.blocks import Block
from tokenstore.writing.checks import check_codes, check_lossless, check_lossless_chunk
from tokenstore.writing.linked import StoredFile
from tokenstore.writing.spec import StoreSpec

_PIECE_NBYTES = 2**20
"""The bytes of values in one piece of a shard, about."""


@dataclass(frozen=True)
class EncodedShard:
    """The bytes of one shard's files, each with its record, and its rows of the samples table."""

    number: int
    samples: int
    arrays: Mapping[str, tuple[bytes, FileRecord]]
    """The file of each array by its path in the store, and the file's size and digest."""
    rows: bytes
    """The rows of the samples table, as a Parquet file."""
    source_bytes: int | None
    """The bytes of the samples in their source, as far as they are known."""
    stored: Mapping[str, StoredFile] = field(default_factory=dict)
    """The files of other arrays by their paths, each of which is a file of another store already."""

    def with_stored(self, files: Mapping[str, StoredFile]) -> EncodedShard:
        """Return the shard with the files of further arrays."""
        return replace(self, stored=files)

    @property
    def records(self) -> dict[str, FileRecord]:
        """The size and the digest of every file, by its path."""
        written = {path: record for path, (_, record) in self.arrays.items()}
        return {**written, **{path: file.record for path, file in self.stored.items()}}


@dataclass(frozen=True)
class CheckedShard:
    """The samples of shard `number` of a split: arrays that fit their layouts, and rows of the table.

    `values` (n, ...) are the arrays by name, tokens first, and `samples` n rows. `layout` returns the layout
    of an array of so many samples. Raises CodecError for codes outside their codebook, ValueError for arrays
    of other shapes or dtypes.
    """

    split: str
    number: int
    spec: StoreSpec
    layout: Callable[[str, int], ArrayLayout]
    values: Mapping[str, npt.NDArray[Any]]
    samples: pa.Table

    def __post_init__(self) -> None:
        codes, where = self.values[TOKENS], f"{self.split} shard {self.number}"
        check_codes(codes, self.spec.codebook_sizes, self.spec.grid, where, views=self.spec.views)
        codes = codes.astype(code_dtype(self.spec.codebook_size), copy=False)
        object.__setattr__(self, "values", {**self.values, TOKENS: codes})
        for array, rows in self.values.items():
            layout = self.layout(array, len(codes))
            if rows.shape != layout.shape or rows.dtype != layout.dtype:
                raise ValueError(
                    f"{array}: expected {layout.dtype} {layout.shape}, found {rows.dtype} {rows.shape}"
                )
        if self.spec.views is not None and VIEW_BOXES in self.values:
            problem = box_problem(self.values[VIEW_BOXES])
            if problem is not None:
                raise CodecError(f"{where}, {VIEW_BOXES}: {problem}")

    def encoded(self) -> EncodedShard:
        """Encode the shard; any number of threads may encode shards at a time."""
        samples = len(self.values[TOKENS])
        arrays = {}
        for array, rows in self.values.items():
            layout = self.layout(array, samples)
            path = f"{self.split}/{array}/{layout.shard_file(self.number)}"
            data = layout.encode_shard(rows)
            if layout.codec.has_tables:
                check_lossless(layout, data, rows, path)
            arrays[path] = data, file_record(data)
        return EncodedShard(self.number, samples, arrays, *encode_rows([self.samples]))


def encode_rows(tables: Iterable[pa.Table]) -> tuple[bytes, int | None]:
    """Return rows of the samples table as a Parquet file, and their bytes in the source, if any are known.

    Each table becomes row groups of its own.
    """
    buffer, source_bytes = io.BytesIO(), None
    with pq.ParquetWriter(buffer, SAMPLES_SCHEMA, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table)
            known = pc.sum(table["source_bytes"]).as_py()
            source_bytes = source_bytes if known is None else known + (source_bytes or 0)
    return buffer.getvalue(), source_bytes


def pieces(split: str, layouts: Mapping[str, ArrayLayout], start: int, stop: int) -> Iterator[Block]:
    """Yield blocks of whole chunks of the shard with the samples [start, stop) of a split, array by array."""
    for array, layout in layouts.items():
        step = layout.chunk_samples * max(1, _PIECE_NBYTES // layout.chunk_nbytes)
        for first in range(start, stop, step):
            yield Block(split, array, first, min(first + step, stop))


def encode_piece(layout: ArrayLayout, rows: npt.NDArray[Any], where: str) -> list[bytes]:
    """Return the payloads of the chunks of `rows` (n, ...); `where` names them in messages.

    Raises CodecError for values that the codec cannot store.
    """
    fill, payloads = layout.filler, []
    for start in range(0, len(rows), layout.chunk_samples):
        chunk = rows[start : start + layout.chunk_samples]
        payload = layout.codec.encode(chunk, layout.chunk_samples, fill)
        if layout.codec.has_tables:
            check_lossless_chunk(layout, payload, chunk, where)
        payloads.append(payload)
    return payloads


def assembled(
    split: str,
    number: int,
    samples: int,
    layouts: Mapping[str, ArrayLayout],
    payloads: Mapping[str, list[bytes]],
    tables: Iterable[pa.Table],
) -> EncodedShard:
    """Return shard `number` of a split, of the payloads of each array's chunks and the rows of its samples.

    The payloads are taken out of their lists, which saves the memory of a shard.
    """
    rows = encode_rows(tables)
    arrays = {}
    for array, layout in layouts.items():
        data = sharding.encode_shard(payloads[array], layout.chunks_per_shard)
        payloads[array].clear()
        arrays[f"{split}/{array}/{layout.shard_file(number)}"] = data, file_record(data)
    return EncodedShard(number, samples, arrays, *rows)
