"""The codecs as Zarr v3 array-to-bytes codecs, found by Zarr through their entry points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np
from typing_extensions import override
from zarr.abc.codec import ArrayBytesCodec

from tokenstore.codecs import bitpack
from tokenstore.codecs.bitpack import Bitpack
from tokenstore.codecs.chunks import SampleCodec
from tokenstore.codecs.context.codec import Context
from tokenstore.errors import CodecError

if TYPE_CHECKING:
    from zarr.abc.buffer import Buffer, NDBuffer

    # Zarr exports this class nowhere public, though it passes one to every codec.
    from zarr.core.array_spec import ArraySpec

__all__ = ["BitPackCodec", "ContextCodec"]


class _SamplesCodec(ArrayBytesCodec):
    """A Zarr codec of chunks (S, *grid) of codes; samples of fill value alone, at the end, are not stored.

    The dtype is the smallest that has the codebook size as a value. The fill value, with which Zarr pads a
    split's last chunk, is the dtype's largest value, which is no code. Encoding raises CodecError for codes
    out of range, decoding for bytes that no encoder wrote.
    """

    name: ClassVar[str]
    is_fixed_size = False
    codebook_size: int

    @property
    def _codec(self) -> SampleCodec:
        raise NotImplementedError

    @override
    def evolve_from_array_spec(self, array_spec: ArraySpec) -> Self:
        self._chunk(array_spec)
        return self

    @override
    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        raise NotImplementedError("the size depends on the codes, and on how many samples are fill value")

    @override
    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        return self._encode_sync(chunk_data, chunk_spec)

    @override
    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        return self._decode_sync(chunk_data, chunk_spec)

    # Zarr calls these two directly if it can, to spare the event loop.
    def _encode_sync(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        chunk = self._chunk(chunk_spec)
        codes = chunk_data.as_numpy_array().astype(chunk.dtype, copy=False)
        codes = codes.reshape(chunk.samples, *chunk.grid)
        stored = chunk.samples
        while stored and (codes[stored - 1] == chunk.fill_value).all():
            stored -= 1
        payload = self._codec.encode(codes[:stored], chunk.samples, chunk.fill_value)
        return chunk_spec.prototype.buffer.from_bytes(payload)

    def _decode_sync(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        chunk = self._chunk(chunk_spec)
        payload = chunk_data.as_numpy_array()
        codec = self._codec
        grid = chunk.grid[1:] if codec.views > 1 else chunk.grid
        spans = codec.spans(payload, grid, at_most=chunk.samples * codec.views)
        stored = len(spans.addresses) // codec.views
        codes = np.empty((chunk.samples, *chunk.grid), chunk.dtype)
        if stored:
            codec.decode(payload, codes[:stored])
        codes[stored:] = chunk.fill_value
        codes = codes.astype(chunk_spec.dtype.to_native_dtype(), copy=False)
        return chunk_spec.prototype.nd_buffer.from_numpy_array(codes)

    def _chunk(self, spec: ArraySpec) -> _Chunk:
        dtype = bitpack.code_dtype(self.codebook_size)
        fill_value = int(np.iinfo(dtype).max)
        actual = spec.dtype.to_native_dtype()
        if actual.newbyteorder("=") != dtype or not spec.shape or spec.fill_value != fill_value:
            raise CodecError(
                f"{self.name}: {self.codebook_size} codes need an array (N, *grid) of {dtype} with fill "
                f"value {fill_value}, found shape {spec.shape} of {actual} with fill value {spec.fill_value}"
            )
        return _Chunk(spec.shape[0], spec.shape[1:], dtype, fill_value)


@dataclass(frozen=True)
class BitPackCodec(_SamplesCodec):
    """`tokenstore.bitpack`: samples packed one after another. FORMAT.md, "bitpack"."""

    name: ClassVar = "tokenstore.bitpack"

    codebook_size: int
    views: int = 1
    """The views of a sample; 1 where samples have no axis of views."""

    def __post_init__(self) -> None:
        Bitpack.from_configuration(self.to_dict()["configuration"])

    @classmethod
    @override
    def from_dict(cls, data: dict[str, Any]) -> Self:
        codec = Bitpack.from_configuration(data.get("configuration"))
        return cls(codec.codebook_size, codec.views)

    @override
    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "configuration": self._codec.configuration}

    @property
    def _codec(self) -> Bitpack:
        return Bitpack(self.codebook_size, self.views)


@dataclass(frozen=True)
class ContextCodec(_SamplesCodec):
    """`tokenstore.context`: samples coded by a model of neighbouring codes. FORMAT.md, "context"."""

    name: ClassVar = "tokenstore.context"

    codebook_size: int
    model: str | None
    """The model in base64; None for a codec without one."""
    views: dict[str, Any] | None = None
    """The views of a sample, and how they are coded; None where samples have no axis of views."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_context", Context.from_configuration(self.to_dict()["configuration"]))

    @classmethod
    @override
    def from_dict(cls, data: dict[str, Any]) -> Self:
        configuration = data.get("configuration")
        Context.from_configuration(configuration)
        assert isinstance(configuration, dict)
        return cls(**configuration)

    @override
    def to_dict(self) -> dict[str, Any]:
        views = {} if self.views is None else {"views": self.views}
        configuration = {"codebook_size": self.codebook_size, "model": self.model, **views}
        return {"name": self.name, "configuration": configuration}

    @property
    def _codec(self) -> Context:
        context: Context = self._context  # type: ignore[attr-defined]
        return context


class _Chunk(NamedTuple):
    samples: int
    grid: tuple[int, ...]
    dtype: np.dtype[np.unsignedinteger]
    fill_value: int
    """The dtype's largest value, which is never a code."""
