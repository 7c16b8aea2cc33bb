"""The codec `zstd`: a chunk's values through Zstandard, which any Zarr v3 reader reads."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from tokenstore.codecs.chunks import ChunkCodec
from tokenstore.errors import CodecError
from tokenstore.machine import importing_kernels

if TYPE_CHECKING:
    from tokenstore.codecs.context.model import ContextModel

__all__ = ["ZSTD_LEVEL", "Zstd"]

ZSTD_LEVEL = 12


class Zstd(ChunkCodec):
    """The codec `zstd`: little-endian values of a whole chunk, compressed."""

    name = "zstd"
    zarr_name = "zstd"

    def __init__(self, level: int = ZSTD_LEVEL) -> None:
        self.level = level

    @classmethod
    @override
    def for_codes(cls, codebook_size: int, model: ContextModel | None = None) -> Self:
        return cls()

    @classmethod
    @override
    def from_zarr(cls, codecs: list[dict[str, Any]]) -> Self | None:
        match codecs:
            case [
                {"name": "bytes", "configuration": {"endian": "little"}},
                {"name": cls.zarr_name, "configuration": {"level": int(level)}},
            ]:
                return cls(level)
        return None

    @property
    @override
    def zarr(self) -> list[dict[str, Any]]:
        return [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": self.zarr_name, "configuration": {"level": self.level, "checksum": False}},
        ]

    @override
    def encode(self, samples: npt.NDArray[Any], chunk_samples: int, fill_value: int) -> bytes:
        if len(samples) < chunk_samples:
            filler = np.full((chunk_samples - len(samples), *samples.shape[1:]), fill_value, samples.dtype)
            samples = np.concatenate([samples, filler])
        little_endian = np.ascontiguousarray(samples).astype(samples.dtype.newbyteorder("<"), copy=False)
        return bytes(_compressor(self.level).encode(little_endian))

    @override
    def decode(self, payload: npt.NDArray[np.uint8], out: npt.NDArray[Any]) -> None:
        little_endian = out.dtype.newbyteorder("<")
        try:
            values = np.frombuffer(_compressor(1).decode(payload), dtype=little_endian)
        except (RuntimeError, ValueError) as error:
            raise CodecError(f"zstd: {error}") from error
        if values.size < out.size or (out.size and values.size % (out.size // len(out))):
            raise CodecError(f"zstd: expected at least {out.size} values, found {values.size}")
        out[...] = values[: out.size].reshape(out.shape)


@functools.cache
def _compressor(level: int) -> Any:
    # Importing numcodecs takes half a second, which only a process that reads values should pay.
    with importing_kernels:
        from numcodecs.zstd import Zstd as Compressor

    return Compressor(level)
