"""The codec `bitpack`: codes packed at a fixed width.

Code j of a sample is bits [j * b, (j + 1) * b) of its bytes, counted from the least significant bit of
byte 0; b = ceil(log2 K), at least 1. Zero bits pad a sample to a whole byte, so every sample starts on a byte
and decodes alone. FORMAT.md, "bitpack". The compiled loops are in `bitpack_kernels.py`.
"""

from __future__ import annotations

import functools
import math
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from tokenstore.codecs.chunks import SampleCodec, SampleSpans
from tokenstore.codecs.registry import MAX_CODEBOOK_SIZE
from tokenstore.codecs.views import MAX_VIEWS
from tokenstore.errors import CodecError
from tokenstore.machine import importing_kernels

if TYPE_CHECKING:
    from tokenstore.codecs.context.given import GivenViews
    from tokenstore.codecs.context.model import ContextModel
    from tokenstore.codecs.views import Views

__all__ = [
    "Bitpack",
    "bit_width",
    "code_dtype",
    "pack",
    "sample_count",
    "sample_nbytes",
    "unpack",
    "unpack_at",
]

Codes: TypeAlias = npt.NDArray[np.unsignedinteger]
Decoded: TypeAlias = npt.NDArray[np.integer]
Packed: TypeAlias = npt.NDArray[np.uint8]
Addresses: TypeAlias = npt.NDArray[np.uint64]

_CODE_DTYPES: Final = tuple(np.dtype(t) for t in (np.uint8, np.uint16, np.uint32))
_LARGEST: Final[dict[np.dtype[Any], int]] = {
    np.dtype(kind): int(np.iinfo(kind).max) for kind in (np.uint8, np.uint16, np.uint32, np.int32, np.int64)
}
"""The largest value of each dtype that codes are decoded to."""


def bit_width(codebook_size: int) -> int:
    """Return the bits a code takes, 1 to 31. Raises CodecError unless codebook_size is in 1..2**31."""
    if not 1 <= codebook_size <= MAX_CODEBOOK_SIZE:
        raise CodecError(f"expected a codebook size in 1..{MAX_CODEBOOK_SIZE}, found {codebook_size}")
    return max(1, (codebook_size - 1).bit_length())


def code_dtype(codebook_size: int) -> np.dtype[np.unsignedinteger]:
    """Return the smallest unsigned dtype that holds every code and whose largest value is no code.

    Raises CodecError unless codebook_size is in 1..2**31.
    """
    bit_width(codebook_size)
    smallest: np.dtype[np.unsignedinteger] = np.min_scalar_type(codebook_size)
    return smallest


def sample_nbytes(codes_per_sample: int, codebook_size: int) -> int:
    """Return the bytes of one packed sample. Raises CodecError for a sample without codes."""
    if codes_per_sample < 1:
        raise CodecError(f"expected at least one code a sample, found {codes_per_sample}")
    return (codes_per_sample * bit_width(codebook_size) + 7) // 8


def sample_count(payload_nbytes: int, codes_per_sample: int, codebook_size: int, at_most: int) -> int:
    """Return the number of samples in a payload. Raises CodecError unless it is whole and up to `at_most`."""
    nbytes = sample_nbytes(codes_per_sample, codebook_size)
    count, rest = divmod(payload_nbytes, nbytes)
    if rest or count > at_most:
        raise CodecError(
            f"expected a payload of up to {at_most} samples of {nbytes} bytes, found {payload_nbytes} bytes"
        )
    return count


def pack(codes: Codes, codebook_size: int) -> Packed:
    """Pack samples of codes (n, L), uint8, uint16 or uint32, to bytes (n, sample_nbytes).

    Raises CodecError for another shape or dtype, and for the first code that is not below codebook_size, with
    its sample and position.
    """
    if codes.ndim != 2 or codes.dtype not in _CODE_DTYPES:
        raise CodecError(
            f"expected codes (n, L) of uint8, uint16 or uint32, found {codes.shape} of {codes.dtype}"
        )
    packed = np.empty((len(codes), sample_nbytes(codes.shape[1], codebook_size)), np.uint8)
    invalid = codes.max(axis=1) >= codebook_size
    if invalid.any():
        raise _code_out_of_range(codes, int(invalid.argmax()), codebook_size)
    _kernels().pack(np.ascontiguousarray(codes), bit_width(codebook_size), packed)
    return packed


def unpack(packed: Packed, codes_per_sample: int, codebook_size: int, out: Decoded) -> None:
    """Decode n samples that lie back to back, contiguous uint8 of any shape, into `out` (n, L).

    `out` is C-contiguous, of uint8, uint16, uint32, int32 or int64, wide enough for the codes. Raises
    CodecError if a sample holds a code that is not below codebook_size, or padding that is not zero; the
    content of `out` is undefined then.
    """
    nbytes = sample_nbytes(codes_per_sample, codebook_size)
    if packed.dtype != np.uint8 or not packed.flags.c_contiguous or packed.size != len(out) * nbytes:
        raise CodecError(
            f"expected {len(out)} contiguous samples of {nbytes} bytes each, "
            f"found {packed.shape} of {packed.dtype} with strides {packed.strides}"
        )
    first = packed.ctypes.data
    addresses = np.arange(first, first + packed.size, nbytes, dtype=np.uint64)
    unpack_at(addresses, codes_per_sample, codebook_size, out)


def unpack_at(addresses: Addresses, codes_per_sample: int, codebook_size: int, out: Decoded) -> None:
    """Decode the samples at memory addresses (m,) uint64 into `out` (m, L); otherwise like `unpack`.

    This is the hot path: one call without the GIL. It reads sample_nbytes bytes at each address, and not one
    more. The caller promises that they can be read during the whole call. Raises CodecError as `unpack` does.
    """
    _check_decode(addresses, codes_per_sample, codebook_size, out)
    decode = _decoder(bit_width(codebook_size))
    refused = decode(addresses.view(np.int64), codes_per_sample, codebook_size, out.reshape(-1))
    if refused >= 0:
        raise _refusal(out, refused, codebook_size)


def _check_decode(addresses: Addresses, codes_per_sample: int, codebook_size: int, out: Decoded) -> None:
    sample_nbytes(codes_per_sample, codebook_size)
    if addresses.dtype != np.uint64 or addresses.ndim != 1 or not addresses.flags.c_contiguous:
        raise CodecError(
            f"expected contiguous addresses (m,) of uint64, found {addresses.shape} of {addresses.dtype}"
        )
    check_buffer(out, (len(addresses), codes_per_sample), codebook_size)


def check_buffer(out: npt.NDArray[Any], shape: tuple[int, ...], codebook_size: int) -> None:
    """Raise CodecError unless codes of this shape can be decoded into a buffer."""
    if out.shape != shape or not out.flags.carray:
        raise CodecError(
            f"expected a writable C-contiguous buffer {shape} for the codes, "
            f"found {out.shape} with strides {out.strides}, writable: {out.flags.writeable}"
        )
    if _LARGEST.get(out.dtype, -1) < codebook_size - 1:
        raise CodecError(
            f"expected a buffer of uint8, uint16, uint32, int32 or int64 that holds codes up to "
            f"{codebook_size - 1}, found {out.dtype}"
        )


def _refusal(out: Decoded, sample: int, codebook_size: int) -> CodecError:
    if out[sample].max() >= codebook_size:
        return _code_out_of_range(out, sample, codebook_size)
    return CodecError("expected zero bits as padding after the last code, found ones", sample=sample)


def _code_out_of_range(codes: Codes | Decoded, sample: int, codebook_size: int) -> CodecError:
    position = int(np.argmax(codes[sample] >= codebook_size))
    return CodecError(
        f"expected a code below the codebook size {codebook_size}, found {codes[sample, position]}",
        sample=sample,
        place=f"position {position}",
    )


@functools.cache
def _decoder(width: int) -> Any:
    return _kernels().decoder(width)


@functools.cache
def _kernels() -> ModuleType:
    with importing_kernels:
        from tokenstore.codecs import bitpack_kernels
    return bitpack_kernels


class Bitpack(SampleCodec):
    """The codec `bitpack`: ceil(log2 K) bits a code, every sample in bytes of its own (FORMAT.md, section 4).

    Codes are below `codebook_size`, which is K.
    """

    name = "bitpack"
    zarr_name = "tokenstore.bitpack"
    codebook_size: int

    def __init__(self, codebook_size: int, views: int = 1) -> None:
        self.codebook_size = codebook_size
        self.views = views

    @classmethod
    @override
    def for_codes(
        cls,
        codebook_size: int,
        model: ContextModel | None = None,
        views: Views | None = None,
        given_views: GivenViews | None = None,
    ) -> Self:
        return cls(codebook_size, 1 if views is None else views.count)

    @classmethod
    @override
    def from_zarr(cls, codecs: list[dict[str, Any]]) -> Self | None:
        match codecs:
            case [{"name": cls.zarr_name, "configuration": dict(configuration)}]:
                return cls.from_configuration(configuration)
        return None

    @classmethod
    def from_configuration(cls, configuration: Any) -> Self:
        """Return the codec of a Zarr configuration; raises CodecError for a bad one."""
        if not isinstance(configuration, dict) or configuration.keys() - {"views"} != {"codebook_size"}:
            raise CodecError(
                f"{cls.zarr_name}: expected a configuration of codebook_size alone, or with views, "
                f"found {configuration!r:.200}"
            )
        size, views = configuration["codebook_size"], configuration.get("views", 2)
        if type(size) is not int or type(views) is not int or not 2 <= views <= MAX_VIEWS:
            raise CodecError(
                f"{cls.zarr_name}: expected an integer codebook_size, and 2 to {MAX_VIEWS} views, "
                f"found {configuration!r:.200}"
            )
        bit_width(size)
        return cls(size, configuration.get("views", 1))

    @property
    @override
    def zarr(self) -> list[dict[str, Any]]:
        return [{"name": self.zarr_name, "configuration": self.configuration}]

    @property
    def configuration(self) -> dict[str, int]:
        """The codec's Zarr configuration."""
        views = {"views": self.views} if self.views > 1 else {}
        return {"codebook_size": self.codebook_size, **views}

    @override
    def encode(self, samples: npt.NDArray[Any], chunk_samples: int, fill_value: int) -> bytes:
        codes = samples.reshape(len(samples) * self.views, math.prod(samples.shape[1:]) // self.views)
        return pack(codes, self.codebook_size).tobytes()

    @override
    def decode(self, payload: Packed, out: npt.NDArray[Any]) -> None:
        self.check_payload(payload, len(out), out.shape[1:])
        codes = out.reshape(len(out) * self.views, -1)
        unpack(payload, codes.shape[1], self.codebook_size, codes)

    @override
    def check_payload(self, payload: Packed, samples: int, shape: tuple[int, ...]) -> None:
        nbytes = self.views * sample_nbytes(math.prod(shape) // self.views, self.codebook_size)
        if len(payload) != samples * nbytes:
            raise CodecError(f"expected {samples} samples of {nbytes} bytes, found {len(payload)} bytes")

    @override
    def sample_nbytes(self, shape: tuple[int, ...]) -> int:
        return sample_nbytes(math.prod(shape), self.codebook_size)

    @override
    def spans(self, payload: Packed, shape: tuple[int, ...], at_most: int) -> SampleSpans:
        nbytes = self.sample_nbytes(shape)
        count = sample_count(len(payload), math.prod(shape), self.codebook_size, at_most)
        return SampleSpans.equal(payload, start=0, count=count, nbytes=nbytes)

    @override
    def decode_at(self, addresses: Addresses, out: npt.NDArray[Any]) -> None:
        codes = out.reshape(len(out), -1)
        unpack_at(addresses, codes.shape[1], self.codebook_size, codes)

    @override
    def decode_spans(
        self,
        chunks: list[SampleSpans],
        chunk: npt.NDArray[np.int64],
        row: npt.NDArray[np.int64],
        out: Decoded,
    ) -> None:
        if len(row):
            addresses, _ = SampleSpans.select(chunks, chunk, row)
            self.decode_at(addresses.view(np.uint64), out)
