"""One shard's files as bytes: encoded and checked, before any of them is written."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tokenstore.codecs import code_dtype
from tokenstore.format import TOKENS, ArrayLayout, FileRecord, file_record
from tokenstore.writing.checks import check_codes, check_lossless
from tokenstore.writing.spec import StoreSpec


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


def encode_shard(
    split: str,
    number: int,
    spec: StoreSpec,
    layout: Callable[[str, int], ArrayLayout],
    values: Mapping[str, npt.NDArray[Any]],
    samples: pa.Table,
) -> EncodedShard:
    """Encode shard `number` of a split: `values` (n, ...) by array, tokens first, and n rows of the table.

    `layout` returns the layout of an array of so many samples. Any number of threads may encode at a time.

    Raises CodecError for codes outside their codebook, ValueError for arrays of other shapes or dtypes.
    """
    codes = values[TOKENS]
    check_codes(codes, spec.codebook_sizes, spec.grid, f"{split} shard {number}")
    codes = codes.astype(code_dtype(max(spec.codebook_sizes)), copy=False)
    arrays = {}
    for array, rows in {**values, TOKENS: codes}.items():
        of_shard = layout(array, len(codes))
        if rows.shape != of_shard.shape or rows.dtype != of_shard.dtype:
            raise ValueError(
                f"{array}: expected {of_shard.dtype} {of_shard.shape}, found {rows.dtype} {rows.shape}"
            )
        path = f"{split}/{array}/{of_shard.shard_file(number)}"
        data = of_shard.encode_shard(rows)
        if of_shard.codec.has_tables:
            check_lossless(of_shard, data, rows, path)
        arrays[path] = data, file_record(data)
    buffer = io.BytesIO()
    pq.write_table(samples, buffer, compression="zstd")
    source_bytes = pc.sum(samples["source_bytes"]).as_py()
    return EncodedShard(number, len(codes), arrays, buffer.getvalue(), source_bytes)
