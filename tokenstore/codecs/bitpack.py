"""Codes packed at a fixed width: code j of a sample is bits [j * b, (j + 1) * b) of its bytes.

Bits count from the least significant bit of byte 0; b = ceil(log2 K), at least 1. A sample is padded with
zero bits to a whole byte, so that every sample starts on one and decodes alone. FORMAT.md, "bitpack".

Eight codes take exactly b bytes. The decoder takes them as one vector: its bytes are shuffled so that every
lane holds those of its code, and each lane is shifted and masked. That is spelled out in LLVM's portable
vector operations, because numba's own loops over the same arithmetic stay scalar, several times slower.
"""

from __future__ import annotations

import functools
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tokenstore.errors import CodecError
from tokenstore.machine import byte_at, compiled, prefetch

__all__ = ["bit_width", "code_dtype", "pack", "sample_count", "sample_nbytes", "unpack", "unpack_at"]

Codes: TypeAlias = npt.NDArray[np.unsignedinteger]
Decoded: TypeAlias = npt.NDArray[np.integer]
Packed: TypeAlias = npt.NDArray[np.uint8]
Addresses: TypeAlias = npt.NDArray[np.uint64]

_MAX_CODEBOOK_SIZE: Final = 2**31
_CODE_DTYPES: Final = tuple(np.dtype(t) for t in (np.uint8, np.uint16, np.uint32))
_CACHE_LINE_NBYTES: Final = 64
_PREFETCH_SAMPLES: Final = 2
_PREFETCH_NBYTES: Final = 4096
_DECODED_DTYPES: Final = (*_CODE_DTYPES, np.dtype(np.int32), np.dtype(np.int64))


def bit_width(codebook_size: int) -> int:
    """Bits a code takes, 1 to 31; CodecError unless codebook_size is in 1..2**31."""
    if not 1 <= codebook_size <= _MAX_CODEBOOK_SIZE:
        raise CodecError(f"expected a codebook size in 1..{_MAX_CODEBOOK_SIZE}, found {codebook_size}")
    return max(1, (codebook_size - 1).bit_length())


def code_dtype(codebook_size: int) -> np.dtype[np.unsignedinteger]:
    """The smallest unsigned dtype that holds every code and, as its largest value, one that is no code."""
    bit_width(codebook_size)
    smallest: np.dtype[np.unsignedinteger] = np.min_scalar_type(codebook_size)
    return smallest


def sample_nbytes(codes_per_sample: int, codebook_size: int) -> int:
    """Bytes of one packed sample."""
    if codes_per_sample < 1:
        raise CodecError(f"expected at least one code a sample, found {codes_per_sample}")
    return (codes_per_sample * bit_width(codebook_size) + 7) // 8


def sample_count(payload_nbytes: int, codes_per_sample: int, codebook_size: int, at_most: int) -> int:
    """Samples in a chunk payload of that many bytes; CodecError unless a whole number up to `at_most`."""
    nbytes = sample_nbytes(codes_per_sample, codebook_size)
    count, rest = divmod(payload_nbytes, nbytes)
    if rest or count > at_most:
        raise CodecError(
            f"expected a payload of up to {at_most} samples of {nbytes} bytes, found {payload_nbytes} bytes"
        )
    return count


def pack(codes: Codes, codebook_size: int) -> Packed:
    """Packs samples of codes (n, L), uint8, uint16 or uint32, to bytes (n, sample_nbytes).

    Raises CodecError, naming sample and position, at the first code that is not below codebook_size.
    """
    if codes.ndim != 2 or codes.dtype not in _CODE_DTYPES:
        raise CodecError(
            f"expected codes (n, L) of uint8, uint16 or uint32, found {codes.shape} of {codes.dtype}"
        )
    packed = np.empty((len(codes), sample_nbytes(codes.shape[1], codebook_size)), np.uint8)
    invalid = codes.max(axis=1) >= codebook_size
    if invalid.any():
        raise _code_out_of_range(codes, int(invalid.argmax()), codebook_size)
    _pack(np.ascontiguousarray(codes), bit_width(codebook_size), packed)
    return packed


def unpack(packed: Packed, codes_per_sample: int, codebook_size: int, out: Decoded) -> None:
    """Decodes n samples that lie back to back, contiguous uint8 of any shape, into `out` (n, L).

    `out` is C-contiguous, of uint8, uint16, uint32, int32 or int64, wide enough for the codes. Raises
    CodecError where a sample holds a code that is not below codebook_size, or padding that is not zero; what
    `out` holds then is undefined.
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
    """Decodes the samples at memory addresses (m,) uint64 into `out` (m, L); otherwise like `unpack`.

    The hot path: one call without the GIL. At each address it reads sample_nbytes bytes and not one more;
    that these may be read, and stay there during the call, is the caller's promise.
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
    """Raises CodecError unless codes of this shape can be decoded into a buffer."""
    if out.shape != shape or not out.flags.carray:
        raise CodecError(
            f"expected a writable C-contiguous buffer {shape} for the codes, "
            f"found {out.shape} with strides {out.strides}, writable: {out.flags.writeable}"
        )
    if out.dtype not in _DECODED_DTYPES or np.iinfo(out.dtype).max < codebook_size - 1:
        raise CodecError(
            f"expected a buffer of uint8, uint16, uint32, int32 or int64 that holds codes up to "
            f"{codebook_size - 1}, found {out.dtype}"
        )


def _refusal(out: Decoded, sample: int, codebook_size: int) -> CodecError:
    if out[sample].max() >= codebook_size:
        return _code_out_of_range(out, sample, codebook_size)
    return CodecError(f"sample {sample}: expected zero bits as padding after the last code, found ones")


def _code_out_of_range(codes: Codes | Decoded, sample: int, codebook_size: int) -> CodecError:
    position = int(np.argmax(codes[sample] >= codebook_size))
    return CodecError(
        f"sample {sample}, position {position}: expected a code below the codebook size {codebook_size}, "
        f"found {codes[sample, position]}"
    )


@compiled
def _pack(codes: Any, width: int, packed: Any) -> None:
    for sample in range(codes.shape[0]):
        word = np.uint64(0)
        held = 0
        at = 0
        for code in codes[sample]:
            word |= np.uint64(code) << np.uint64(held)
            held += width
            while held >= 8:
                packed[sample, at] = word & np.uint64(255)
                word >>= np.uint64(8)
                held -= 8
                at += 1
        if held:
            packed[sample, at] = word


@functools.cache
def _decoder(width: int) -> Any:
    """The decoder of one width: returns the first sample it refuses, or -1."""
    # A register takes a power of two of bytes: more than eight codes have, wherever the sample has them too.
    reach = max(8, 1 << (width - 1).bit_length())
    mask = (1 << width) - 1

    @compiled
    def decode(addresses: Any, codes_per_sample: int, codebook_size: int, out: Any) -> int:
        nbytes = (codes_per_sample * width + 7) // 8
        padding = np.uint8(codes_per_sample * width % 8)
        groups = codes_per_sample // 8
        # subtle: after these, a whole register would reach past the sample, perhaps past its mapping's end
        roomy = min(groups, (nbytes - reach) // width + 1) if nbytes >= reach else 0
        for sample in range(addresses.size):
            if sample + _PREFETCH_SAMPLES < addresses.size:
                # Samples are asked for in random order, which no processor foresees.
                for at in range(0, min(nbytes, _PREFETCH_NBYTES), _CACHE_LINE_NBYTES):
                    prefetch(addresses[sample + _PREFETCH_SAMPLES] + at)  # type: ignore[call-arg]
            address = addresses[sample]
            start = sample * codes_per_sample
            rest = address + roomy * width
            largest: Any = max(
                _unpack_eights(address, roomy, out, start, width, reach),  # type: ignore[call-arg]
                _unpack_eights(rest, groups - roomy, out, start + 8 * roomy, width, width),  # type: ignore[call-arg]
            )
            for position in range(8 * groups, codes_per_sample):
                bit = position * width
                word = np.uint64(0)
                for at in range(bit // 8, (bit + width + 7) // 8):
                    word |= np.uint64(byte_at(address + at)) << np.uint64(8 * (at - bit // 8))
                code = (word >> np.uint64(bit % 8)) & np.uint64(mask)
                out[start + position] = code
                largest = max(largest, code)
            if largest >= np.uint64(codebook_size):
                return sample
            if padding and byte_at(address + nbytes - 1) >> padding:
                return sample
        return -1

    return decode


@intrinsic(prefer_literal=True)
def _unpack_eights(
    typing: Any, address: Any, groups: Any, out: Any, start: Any, width: Any, reach: Any
) -> Any:
    """Decodes groups of eight codes to out[start:], by loads of `reach` bytes; returns the largest code."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, count, array, first = arguments[:4]
        array = context.make_array(out)(context, builder, array)
        eights = _Eights(width.literal_value, reach.literal_value)
        largest = cgutils.alloca_once(builder, eights.lanes, zfill=True)  # type: ignore[no-untyped-call]
        with cgutils.for_range(builder, count) as loop:
            at = builder.add(source, builder.mul(loop.index, ir.Constant(source.type, eights.width)))
            codes = eights.load(builder, at)
            position = builder.add(first, builder.mul(loop.index, ir.Constant(first.type, 8)))
            eights.store(builder, codes, builder.gep(array.data, [position]))
            seen = builder.load(largest)
            builder.store(builder.select(builder.icmp_unsigned(">", codes, seen), codes, seen), largest)
        return eights.maximum(builder, builder.load(largest))

    return types.uint64(address, groups, out, start, width, reach), codegen


class _Eights:
    """LLVM code for eight codes of one width, side by side in the lanes of a vector."""

    def __init__(self, width: int, reach: int) -> None:
        self.width = width
        self.reach = reach
        shifts = [lane * width % 8 for lane in range(8)]
        bits = next(size for size in (8, 16, 32, 64) if size >= max(shifts) + width)
        self.lanes = ir.VectorType(ir.IntType(bits), 8)
        self.shifts = ir.Constant(self.lanes, shifts)
        self.mask = ir.Constant(self.lanes, [(1 << width) - 1] * 8)
        # Bytes beyond a code's own are masked away, so any byte will do in their place.
        moves = [min(lane * width // 8 + byte, reach - 1) for lane in range(8) for byte in range(bits // 8)]
        self.moves = ir.Constant(ir.VectorType(ir.IntType(32), len(moves)), moves)

    def load(self, builder: Any, address: Any) -> Any:
        register = ir.VectorType(ir.IntType(8), self.reach)
        loaded = builder.load(builder.inttoptr(address, register.as_pointer()), align=1)
        moved = builder.bitcast(builder.shuffle_vector(loaded, loaded, self.moves), self.lanes)
        return builder.and_(builder.lshr(moved, self.shifts), self.mask)

    def store(self, builder: Any, codes: Any, pointer: Any) -> None:
        element = pointer.type.pointee
        target = ir.VectorType(element, 8)
        if element.width < self.lanes.element.width:
            codes = builder.trunc(codes, target)
        elif element.width > self.lanes.element.width:
            codes = builder.zext(codes, target)
        builder.store(codes, builder.bitcast(pointer, target.as_pointer()), align=element.width // 8)

    def maximum(self, builder: Any, codes: Any) -> Any:
        lane = self.lanes.element
        reduce = builder.module.declare_intrinsic(
            f"llvm.vector.reduce.umax.v8i{lane.width}", fnty=ir.FunctionType(lane, [self.lanes])
        )
        largest = builder.call(reduce, [codes])
        wide = ir.IntType(64)
        return largest if lane == wide else builder.zext(largest, wide)
