"""How the samples of one chunk become its payload, and back."""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from numcodecs.zstd import Zstd as _Zstd

from tokenstore.codecs import bitpack
from tokenstore.codecs.context.codec import Context, Located
from tokenstore.codecs.context.model import ContextModel
from tokenstore.errors import CodecError

Rows = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
ZSTD_LEVEL = 12


class ChunkCodec(Protocol):
    """Samples (n, *shape) to a chunk's payload and back; checksums are the shard's matter."""

    @property
    def name(self) -> str: ...

    @property
    def zarr(self) -> list[dict[str, Any]]:
        """The codec as part of an array's Zarr v3 metadata."""

    def encode(self, rows: Rows, chunk_samples: int, fill_value: int) -> bytes:
        """The payload of a chunk of `chunk_samples`, of which `rows` are all that hold data."""

    def decode(self, payload: Bytes, out: Rows) -> None:
        """Decode the first len(out) samples. Raises CodecError where the payload is no encoding of them."""


class Bitpack:
    """ceil(log2 K) bits a code, every sample on its own bytes (FORMAT.md, section 4)."""

    name = "bitpack"

    def __init__(self, codebook_size: int) -> None:
        self.codebook_size = codebook_size

    @property
    def zarr(self) -> list[dict[str, Any]]:
        return [{"name": "tokenstore.bitpack", "configuration": {"codebook_size": self.codebook_size}}]

    def encode(self, rows: Rows, chunk_samples: int, fill_value: int) -> bytes:
        codes = rows.reshape(len(rows), math.prod(rows.shape[1:]))
        return bitpack.pack(codes, self.codebook_size).tobytes()

    def decode(self, payload: Bytes, out: Rows) -> None:
        codes = out.reshape(len(out), -1)
        nbytes = self.check_size(payload, *codes.shape)
        bitpack.unpack(payload.reshape(len(out), nbytes), codes.shape[1], self.codebook_size, codes)

    def locate(self, payload: Bytes, grid: tuple[int, ...]) -> Located:
        """Where a checked payload's samples lie."""
        nbytes = bitpack.sample_nbytes(math.prod(grid), self.codebook_size)
        starts = np.arange(0, len(payload), nbytes, dtype=np.int64)
        return Located(payload, payload.ctypes.data + starts, np.full(len(starts), nbytes, np.int64), True)

    def check_size(self, payload: Bytes, samples: int, codes_per_sample: int) -> int:
        """Bytes of one sample; raises CodecError where the payload does not hold that many samples."""
        nbytes = bitpack.sample_nbytes(codes_per_sample, self.codebook_size)
        if len(payload) != samples * nbytes:
            raise CodecError(f"expected {samples} samples of {nbytes} bytes, found {len(payload)} bytes")
        return nbytes


class Zstd:
    """A chunk's little-endian values through Zstandard: what any Zarr v3 reader reads."""

    name = "zstd"

    def __init__(self, level: int = ZSTD_LEVEL) -> None:
        self.level = level

    @property
    def zarr(self) -> list[dict[str, Any]]:
        return [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "zstd", "configuration": {"level": self.level, "checksum": False}},
        ]

    def encode(self, rows: Rows, chunk_samples: int, fill_value: int) -> bytes:
        if len(rows) < chunk_samples:
            filler = np.full((chunk_samples - len(rows), *rows.shape[1:]), fill_value, rows.dtype)
            rows = np.concatenate([rows, filler])
        return bytes(_Zstd(self.level).encode(_little_endian(np.ascontiguousarray(rows))))

    def decode(self, payload: Bytes, out: Rows) -> None:
        little_endian = out.dtype.newbyteorder("<")
        try:
            values = np.frombuffer(_Zstd().decode(payload), dtype=little_endian)
        except (RuntimeError, ValueError) as error:
            raise CodecError(f"zstd: {error}") from error
        if values.size < out.size or (out.size and values.size % (out.size // len(out))):
            raise CodecError(f"zstd: expected at least {out.size} values, found {values.size}")
        out[...] = values[: out.size].reshape(out.shape)


def _little_endian(rows: Rows) -> Rows:
    return rows.astype(rows.dtype.newbyteorder("<"), copy=False)


def named(name: str, codebook_size: int, model: ContextModel | None = None) -> ChunkCodec:
    """The codec of tokens that a store's manifest names; raises CodecError if unknown."""
    match name:
        case "bitpack":
            return Bitpack(codebook_size)
        case "context":
            return Context(codebook_size, model)
        case "zstd":
            return Zstd()
    raise CodecError(f"expected a codec bitpack, context or zstd, found {name!r}")


def from_zarr(codecs: list[dict[str, Any]]) -> ChunkCodec:
    """The codec that an array's Zarr metadata names, checksum aside; raises CodecError if unknown."""
    match codecs:
        case [{"name": "tokenstore.bitpack", "configuration": {"codebook_size": int(codebook_size)}}]:
            return Bitpack(codebook_size)
        case [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "zstd", "configuration": {"level": int(level)}},
        ]:
            return Zstd(level)
        case [{"name": "tokenstore.context", "configuration": configuration}]:
            return Context.from_configuration(configuration)
    raise CodecError(f"expected the codecs of bitpack, context or zstd, found {codecs!r:.200}")
