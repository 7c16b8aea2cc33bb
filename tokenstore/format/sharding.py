"""The bytes of a shard: its chunks, each with a CRC-32C, and an index at the end (Zarr's `sharding_indexed`).

Source: FORMAT.md, section 3, and the Zarr v3 specification's sharding codec, version 1.0.
"""

from __future__ import annotations

from collections.abc import Iterable

import google_crc32c
import numpy as np
import numpy.typing as npt

from tokenstore.errors import CodecError, DamageError

CHECKSUM_NBYTES = 4
ABSENT = np.uint64(2**64 - 1)
"""The offset and the length, in the index, of a chunk without samples."""

Bytes = npt.NDArray[np.uint8]
Index = npt.NDArray[np.uint64]


def crc32c(data: bytes | Bytes) -> int:
    """Return the CRC-32C (Castagnoli) of some bytes."""
    return int(google_crc32c.value(data))


def index_nbytes(chunks_per_shard: int) -> int:
    """Return the bytes of a shard's index: two uint64 for each chunk, and a CRC-32C."""
    return 16 * chunks_per_shard + CHECKSUM_NBYTES


def encode_shard(payloads: Iterable[bytes], chunks_per_shard: int) -> bytes:
    """Return a shard's bytes. Chunks without a payload, at its end, are absent.

    `payloads` are the chunks' encoded samples, in order.
    """
    index = np.full((chunks_per_shard, 2), ABSENT, dtype="<u8")
    parts: list[bytes] = []
    offset = 0
    for position, payload in enumerate(payloads):
        parts += (payload, crc32c(payload).to_bytes(CHECKSUM_NBYTES, "little"))
        index[position] = (offset, len(payload) + CHECKSUM_NBYTES)
        offset += len(payload) + CHECKSUM_NBYTES
    encoded_index = index.tobytes()
    parts += (encoded_index, crc32c(encoded_index).to_bytes(CHECKSUM_NBYTES, "little"))
    return b"".join(parts)


def decode_index(data: bytes | Bytes, chunks: int, shard_nbytes: int, where: str) -> Index:
    """Return offset and length of a shard's first `chunks` chunks, checksums included: (chunks, 2) uint64.

    `data` are the last `index_nbytes(...)` bytes of a shard of `shard_nbytes`. Raises DamageError if the
    index's checksum is wrong, or if the chunks do not fill the shard in order.
    """
    array = np.frombuffer(data, dtype=np.uint8)
    stored = int.from_bytes(array[-CHECKSUM_NBYTES:].tobytes(), "little")
    actual = crc32c(array[:-CHECKSUM_NBYTES])
    if stored != actual:
        raise DamageError(f"{where}: the shard index has CRC-32C {actual:08x}, expected {stored:08x}")
    entries = array[:-CHECKSUM_NBYTES].view("<u8").reshape(-1, 2)
    if (entries[chunks:] != ABSENT).any():
        raise DamageError(f"{where}: the shard has more chunks than the {chunks} of its samples")
    index: Index = entries[:chunks].astype(np.uint64)
    room = shard_nbytes - len(array)
    offset, length = index[:, 0], index[:, 1]
    expected = length.cumsum() - length
    wrong = (length < CHECKSUM_NBYTES) | (length > room) | (offset != expected)
    if wrong.any():
        chunk = int(np.argmax(wrong))
        problem = (
            "is missing" if offset[chunk] == ABSENT else f"is at byte {offset[chunk]}, not {expected[chunk]}"
        )
        raise DamageError(f"{where}: chunk {chunk} of the shard {problem}")
    if int(length.sum()) != room:
        raise DamageError(f"{where}: the shard's chunks have {int(length.sum())} bytes, expected {room}")
    return index


def checked_payload(chunk: Bytes) -> Bytes:
    """Return a chunk's payload without its checksum; raises CodecError if the checksum is wrong."""
    if len(chunk) < CHECKSUM_NBYTES:
        raise CodecError(f"expected a chunk with its CRC-32C, found {len(chunk)} bytes")
    payload = chunk[:-CHECKSUM_NBYTES]
    stored = int.from_bytes(chunk[-CHECKSUM_NBYTES:].tobytes(), "little")
    actual = crc32c(payload)
    if stored != actual:
        raise CodecError(f"the chunk has CRC-32C {actual:08x}, expected {stored:08x}")
    return payload
