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
    from tokenstore.codecs.context.given import GivenViews
    from tokenstore.codecs.context.model import ContextModel
    from tokenstore.codecs.views import Views

__all__ = ["ZSTD_LEVEL", "Zstd"]

ZSTD_LEVEL = 12
_MAGIC = b"\x28\xb5\x2f\xfd"


class Zstd(ChunkCodec):
    """The codec `zstd`: little-endian values of a whole chunk, compressed."""

    name = "zstd"
    zarr_name = "zstd"

    def __init__(self, level: int = ZSTD_LEVEL) -> None:
        self.level = level

    @classmethod
    @override
    def for_codes(
        cls,
        codebook_size: int,
        model: ContextModel | None = None,
        views: Views | None = None,
        given_views: GivenViews | None = None,
    ) -> Self:
        return cls()

    @classmethod
    @override
    def from_zarr(cls, codecs: list[dict[str, Any]]) -> Self | None:
        match codecs:
            case [
                {"name": "bytes", "configuration": {"endian": "little"}},
                {"name": cls.zarr_name, "configuration": {"level": level}},
            ] if type(level) is int:
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
    def decoded_nbytes(self, payload: npt.NDArray[np.uint8]) -> int | None:
        return _content_nbytes(payload)

    @override
    def decode(self, payload: npt.NDArray[np.uint8], out: npt.NDArray[Any]) -> None:
        nbytes = _content_nbytes(payload)
        if nbytes is None:
            stored = _streamed(payload, out.nbytes)
        elif nbytes and nbytes >= out.nbytes:
            stored = np.empty(nbytes, np.uint8)
            try:
                _compressor(1).decode(payload, out=stored)
            except (RuntimeError, ValueError) as error:
                raise CodecError(f"zstd: {error}") from error
        else:
            stored = np.empty(0, np.uint8)
        if len(stored) < out.nbytes:
            raise CodecError(f"zstd: expected at least {out.nbytes} bytes, found {nbytes or len(stored)}")
        values = stored[: out.nbytes].view(out.dtype.newbyteorder("<"))
        out[...] = values.reshape(out.shape)


def _content_nbytes(payload: npt.NDArray[np.uint8]) -> int | None:
    """Return the size of its content that a frame's header states, or None for a frame without one.

    Source: RFC 8878, section 3.1.1.1. Raises CodecError for bytes that are no frame.
    """
    head = payload[:18].tobytes()
    if len(head) < 5 or head[:4] != _MAGIC:
        raise CodecError(f"zstd: expected a frame, found {head.hex(' ') or 'no bytes'}")
    descriptor = head[4]
    single_segment = descriptor >> 5 & 1
    width = (single_segment, 2, 4, 8)[descriptor >> 6]
    start = 5 + (not single_segment) + (0, 1, 2, 4)[descriptor & 3]
    if not width:
        return None
    return int.from_bytes(head[start : start + width], "little") + 256 * (width == 2)


def _streamed(payload: npt.NDArray[np.uint8], most: int) -> npt.NDArray[np.uint8]:
    """Decompress the first `most` bytes of a frame that does not state its size, and no more."""
    import pyarrow as pa  # slow to import, and this library writes no such frame

    try:
        data = pa.CompressedInputStream(pa.BufferReader(payload), "zstd").read(most)
    except (OSError, pa.ArrowException) as error:
        raise CodecError(f"zstd: {error}") from error
    return np.frombuffer(data, np.uint8)


@functools.cache
def _compressor(level: int) -> Any:
    # Importing numcodecs takes half a second, which only a process that reads values should pay.
    with importing_kernels:
        from numcodecs.zstd import Zstd as Compressor

    return Compressor(level)
