"""The codecs as Zarr v3 array-to-bytes codecs, found by Zarr through their entry points."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np
from zarr.abc.codec import ArrayBytesCodec

from tokenstore.codecs import bitpack
from tokenstore.errors import CodecError

if TYPE_CHECKING:
    from zarr.abc.buffer import Buffer, NDBuffer

    # Zarr names it nowhere public, though every codec is handed one.
    from zarr.core.array_spec import ArraySpec

__all__ = ["BitPackCodec"]


@dataclass(frozen=True)
class BitPackCodec(ArrayBytesCodec):
    """`tokenstore.bitpack`: the samples of a chunk (S, *grid), packed one after another.

    The dtype is the smallest that holds the codebook size, and the fill value its largest value, which is no
    code. Zarr pads a split's last chunk with it; samples at a chunk's end that hold nothing else are not
    stored. FORMAT.md, "bitpack".

    Raises CodecError for codes out of range, and for bytes that no encoder wrote.
    """

    name: ClassVar = "tokenstore.bitpack"
    is_fixed_size = False

    codebook_size: int

    def __post_init__(self) -> None:
        if type(self.codebook_size) is not int:
            raise CodecError(f"{self.name}: expected an integer codebook_size, found {self.codebook_size!r}")
        bitpack.bit_width(self.codebook_size)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        configuration = data.get("configuration")
        if not isinstance(configuration, dict) or configuration.keys() != {"codebook_size"}:
            raise CodecError(
                f"{cls.name}: expected a configuration of codebook_size alone, found {configuration!r}"
            )
        return cls(configuration["codebook_size"])

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "configuration": {"codebook_size": self.codebook_size}}

    def evolve_from_array_spec(self, array_spec: ArraySpec) -> Self:
        self._chunk(array_spec)
        return self

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        raise NotImplementedError(
            "the size depends on how many samples at the end of the chunk are fill value"
        )

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        return self._encode_sync(chunk_data, chunk_spec)

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        return self._decode_sync(chunk_data, chunk_spec)

    # Zarr calls these two itself where it can, sparing the event loop.
    def _encode_sync(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        chunk = self._chunk(chunk_spec)
        codes = chunk_data.as_numpy_array().astype(chunk.dtype, copy=False)
        codes = codes.reshape(chunk.samples, chunk.codes_per_sample)
        stored = chunk.samples
        while stored and (codes[stored - 1] == chunk.fill_value).all():
            stored -= 1
        packed = bitpack.pack(codes[:stored], self.codebook_size)
        return chunk_spec.prototype.buffer.from_array_like(packed.reshape(-1))

    def _decode_sync(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        chunk = self._chunk(chunk_spec)
        packed = chunk_data.as_numpy_array()
        stored = bitpack.sample_count(
            packed.size, chunk.codes_per_sample, self.codebook_size, at_most=chunk.samples
        )
        codes = np.empty((chunk.samples, chunk.codes_per_sample), chunk.dtype)
        bitpack.unpack(packed, chunk.codes_per_sample, self.codebook_size, codes[:stored])
        codes[stored:] = chunk.fill_value
        codes = codes.reshape(chunk_spec.shape).astype(chunk_spec.dtype.to_native_dtype(), copy=False)
        return chunk_spec.prototype.nd_buffer.from_numpy_array(codes)

    def _chunk(self, spec: ArraySpec) -> _Chunk:
        dtype = bitpack.code_dtype(self.codebook_size)
        fill_value = int(np.iinfo(dtype).max)
        found = spec.dtype.to_native_dtype()
        if found.newbyteorder("=") != dtype or not spec.shape or spec.fill_value != fill_value:
            raise CodecError(
                f"{self.name}: {self.codebook_size} codes need an array (N, *grid) of {dtype} with fill "
                f"value {fill_value}, found shape {spec.shape} of {found} with fill value {spec.fill_value}"
            )
        return _Chunk(spec.shape[0], math.prod(spec.shape[1:]), dtype, fill_value)


class _Chunk(NamedTuple):
    samples: int
    codes_per_sample: int
    dtype: np.dtype[np.unsignedinteger]
    fill_value: int
    """The dtype's largest value, which is never a code."""
