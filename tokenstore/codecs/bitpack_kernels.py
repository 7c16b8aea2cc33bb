"""The compiled loops of `bitpack`: packing codes at a fixed width, and unpacking them.

Eight codes take exactly as many bytes as one code has bits. The decoder loads them as one vector: it
shuffles the bytes so that every lane holds those of its code, then shifts and masks each lane. The code is
written in LLVM's portable vector operations, because numba's own loops over the same arithmetic stay scalar,
several times slower.
"""

from __future__ import annotations

import functools
from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tokenstore.codecs.addresses import byte_at, prefetch
from tokenstore.machine import compiled

_CACHE_LINE_NBYTES: Final = 64
_PREFETCH_SAMPLES: Final = 2
_PREFETCH_NBYTES: Final = 4096


@compiled
def pack(codes: Any, width: int, packed: Any) -> None:
    """Pack codes (n, L) at `width` bits into `packed` (n, nbytes)."""
    for sample in range(codes.shape[0]):
        word = np.uint64(0)
        bits = 0
        at = 0
        for code in codes[sample]:
            word |= np.uint64(code) << np.uint64(bits)
            bits += width
            while bits >= 8:
                packed[sample, at] = word & np.uint64(255)
                word >>= np.uint64(8)
                bits -= 8
                at += 1
        if bits:
            packed[sample, at] = word


@functools.cache
def decoder(width: int) -> Any:
    """Return the decoder of one width, which returns the first sample it refuses, or -1."""
    # A register has a power of two of bytes: more than eight codes take, if the sample has so many bytes.
    reach = max(8, 1 << (width - 1).bit_length())
    mask = (1 << width) - 1

    @compiled
    def decode(addresses: Any, codes_per_sample: int, codebook_size: int, out: Any) -> int:
        nbytes = (codes_per_sample * width + 7) // 8
        padding = np.uint8(codes_per_sample * width % 8)
        groups = codes_per_sample // 8
        # subtle: behind these groups, a whole register would reach past the sample, perhaps past the
        # end of its mapping
        roomy = min(groups, (nbytes - reach) // width + 1) if nbytes >= reach else 0
        for sample in range(addresses.size):
            if sample + _PREFETCH_SAMPLES < addresses.size:
                # Samples are read in random order, which no processor predicts.
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
    """Decode groups of eight codes to out[start:], by loads of `reach` bytes, and return the largest code."""

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
    """The LLVM code for eight codes of one width, side by side in the lanes of a vector."""

    def __init__(self, width: int, reach: int) -> None:
        self.width = width
        self.reach = reach
        shifts = [lane * width % 8 for lane in range(8)]
        bits = next(size for size in (8, 16, 32, 64) if size >= max(shifts) + width)
        self.lanes = ir.VectorType(ir.IntType(bits), 8)
        self.shifts = ir.Constant(self.lanes, shifts)
        self.mask = ir.Constant(self.lanes, [(1 << width) - 1] * 8)
        # Bytes beyond a code's own are masked away, so any byte may stand in their place.
        sources = [min(lane * width // 8 + byte, reach - 1) for lane in range(8) for byte in range(bits // 8)]
        self.sources = ir.Constant(ir.VectorType(ir.IntType(32), len(sources)), sources)

    def load(self, builder: Any, address: Any) -> Any:
        """Emit the load of eight codes from an address; returns them as a vector."""
        register = ir.VectorType(ir.IntType(8), self.reach)
        loaded = builder.load(builder.inttoptr(address, register.as_pointer()), align=1)
        aligned = builder.bitcast(builder.shuffle_vector(loaded, loaded, self.sources), self.lanes)
        return builder.and_(builder.lshr(aligned, self.shifts), self.mask)

    def store(self, builder: Any, codes: Any, pointer: Any) -> None:
        """Emit the store of eight codes at a pointer, in the pointer's element type."""
        element = pointer.type.pointee
        target = ir.VectorType(element, 8)
        if element.width < self.lanes.element.width:
            codes = builder.trunc(codes, target)
        elif element.width > self.lanes.element.width:
            codes = builder.zext(codes, target)
        builder.store(codes, builder.bitcast(pointer, target.as_pointer()), align=element.width // 8)

    def maximum(self, builder: Any, codes: Any) -> Any:
        """Emit the maximum of eight codes; returns it as uint64."""
        lane = self.lanes.element
        reduce = builder.module.declare_intrinsic(
            f"llvm.vector.reduce.umax.v8i{lane.width}", fnty=ir.FunctionType(lane, [self.lanes])
        )
        largest = builder.call(reduce, [codes])
        wide = ir.IntType(64)
        return largest if lane == wide else builder.zext(largest, wide)
