"""The shard manifest of an aligned array: the size and the digest of each of its shards, a row of 40 bytes.

A store of many shards lists them here instead of in its root (FORMAT.md, section 8), and the root lists this
file. So a store is opened without a word about any shard, and a shard's row is found by arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenstore.format.manifest import FileRecord

__all__ = ["ROW_NBYTES", "SHARD_MANIFEST", "decode_records", "encode_records", "shard_sizes"]

SHARD_MANIFEST = "shards.bin"
"""The name of the file, in the array's folder."""

_ROW = np.dtype([("size", "<u8"), ("sha256", "V32")])
ROW_NBYTES = _ROW.itemsize
"""The bytes of one shard's row."""


def encode_records(records: Iterable[FileRecord]) -> bytes:
    """Return the rows of shards, in order."""
    return b"".join(record.size.to_bytes(8, "little") + bytes.fromhex(record.sha256) for record in records)


def decode_records(data: bytes) -> Iterator[FileRecord]:
    """Yield the record of every row."""
    for start in range(0, len(data), ROW_NBYTES):
        row = data[start : start + ROW_NBYTES]
        yield FileRecord(int.from_bytes(row[:8], "little"), row[8:].hex())


def shard_sizes(data: bytes) -> npt.NDArray[np.int64]:
    """Return the size of every row's shard (shards,); one of more than 2^63 - 1 bytes is negative."""
    rows: npt.NDArray[Any] = np.frombuffer(data, _ROW)
    return rows["size"].astype(np.int64)
