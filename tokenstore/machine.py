"""What compiled code of the codecs shares: how it is compiled, loads from memory addresses, and the cores
there are."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core.compiler_lock import global_compiler_lock
from numba.extending import intrinsic

__all__ = ["available_cores", "big_endian_at", "byte_at", "compiled", "prefetch", "word_at"]


def available_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def compiled(function: Callable[..., Any]) -> Any:
    """Compiled to run without the GIL, and kept on disk where there is a place for it."""
    try:
        return njit(nogil=True, cache=True, error_model="numpy")(function)
    except RuntimeError:  # neither this folder nor the user's cache folder can be written
        return njit(nogil=True, error_model="numpy")(function)


if hasattr(os, "register_at_fork"):
    # A fork while another thread compiles would leave the child waiting for that thread for ever.
    os.register_at_fork(
        before=global_compiler_lock.acquire,
        after_in_parent=global_compiler_lock.release,
        after_in_child=global_compiler_lock.release,
    )


@intrinsic
def byte_at(typing: Any, address: Any) -> Any:
    """The byte at an address."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(builder.inttoptr(arguments[0], ir.IntType(8).as_pointer()))

    return types.uint8(address), codegen


@intrinsic
def word_at(typing: Any, address: Any) -> Any:
    """The 32-bit integer at an aligned address."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = builder.load(builder.inttoptr(arguments[0], ir.IntType(32).as_pointer()))
        return builder.sext(word, ir.IntType(64))

    return types.int64(address), codegen


@intrinsic
def big_endian_at(typing: Any, address: Any) -> Any:
    """The unsigned number of 32 bits at any address, its most significant byte first."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], ir.IntType(32).as_pointer())
        word = builder.load(pointer, align=1)
        if sys.byteorder == "little":
            word = builder.bswap(word)
        return builder.zext(word, ir.IntType(64))

    return types.int64(address), codegen


@intrinsic
def prefetch(typing: Any, address: Any) -> Any:
    """Asks for the cache line at an address, which is a hint and reads nothing."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
        hint = builder.module.declare_intrinsic(
            "llvm.prefetch", [pointer], ir.FunctionType(ir.VoidType(), [pointer, flag, flag, flag])
        )
        to_read, keep, data = (ir.Constant(flag, value) for value in (0, 3, 1))
        builder.call(hint, [builder.inttoptr(arguments[0], pointer), to_read, keep, data])
        return context.get_dummy_value()

    return types.void(address), codegen
