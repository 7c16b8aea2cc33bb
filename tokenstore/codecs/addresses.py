"""Loads from memory addresses and stores to them, for compiled kernels.

Importing this module imports numba, so only modules of kernels import it.
"""

from __future__ import annotations

import sys
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

__all__ = ["big_endian_at", "byte_at", "prefetch", "store_at", "word_at"]


@intrinsic
def byte_at(typing: Any, address: Any) -> Any:
    """Load the byte at an address."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(builder.inttoptr(arguments[0], ir.IntType(8).as_pointer()))

    return types.uint8(address), codegen


@intrinsic
def word_at(typing: Any, address: Any) -> Any:
    """Load the 32-bit integer at an aligned address."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = builder.load(builder.inttoptr(arguments[0], ir.IntType(32).as_pointer()))
        return builder.sext(word, ir.IntType(64))

    return types.int64(address), codegen


@intrinsic
def big_endian_at(typing: Any, address: Any) -> Any:
    """Load the unsigned 32-bit integer at any address, most significant byte first."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], ir.IntType(32).as_pointer())
        word = builder.load(pointer, align=1)
        if sys.byteorder == "little":
            word = builder.bswap(word)
        return builder.zext(word, ir.IntType(64))

    return types.int64(address), codegen


@intrinsic(prefer_literal=True)
def store_at(typing: Any, address: Any, value: Any, nbytes: Any) -> Any:
    """Store the lowest `nbytes` bytes of an integer, a literal 1, 2, 4 or 8, at an aligned address."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.IntType(8 * nbytes.literal_value)
        stored = arguments[1] if kind.width == 64 else builder.trunc(arguments[1], kind)
        builder.store(stored, builder.inttoptr(arguments[0], kind.as_pointer()))
        return context.get_dummy_value()

    return types.void(address, value, nbytes), codegen


@intrinsic
def prefetch(typing: Any, address: Any) -> Any:
    """Ask the processor to load the cache line at an address into its cache: a hint, which reads nothing."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
        hint = builder.module.declare_intrinsic(
            "llvm.prefetch", [pointer], ir.FunctionType(ir.VoidType(), [pointer, flag, flag, flag])
        )
        to_read, keep, data = (ir.Constant(flag, value) for value in (0, 3, 1))
        builder.call(hint, [builder.inttoptr(arguments[0], pointer), to_read, keep, data])
        return context.get_dummy_value()

    return types.void(address), codegen
