"""Reused memory: pages that are new from the system are slow when they are first touched."""

from __future__ import annotations

import weakref
from collections import deque

import numpy as np
import numpy.typing as npt

__all__ = ["ReusedMemory"]


_ALIGNMENT = 64
"""The alignment in bytes of the widest vector stores; torch uses the same."""


class _InUse(weakref.ref[npt.NDArray[np.uint8]]):
    """A reference to an array in use, with the memory that the array is part of."""

    memory: memoryview


class ReusedMemory:
    """An allocator of arrays whose memory is reused once no reference to them or to a view of them is left.

    At most `spare` unused pieces stay allocated, the last ones. Threads may share an allocator.
    """

    def __init__(self, spare: int) -> None:
        self._spare = spare
        self._free: deque[_InUse] = deque()
        self._in_use: dict[int, _InUse] = {}

    def __reduce__(self) -> tuple[type[ReusedMemory], tuple[int]]:
        return ReusedMemory, (self._spare,)

    def allocate(self, nbytes: int) -> npt.NDArray[np.uint8]:
        """Return an array (nbytes,) uint8, aligned for any dtype, that nobody else uses."""
        memory = self._unused(nbytes)
        # subtle: numpy makes this very array the base of every view of it, since its own base is none
        array: npt.NDArray[np.uint8] = np.frombuffer(memory, np.uint8, nbytes)
        # subtle: no Python is called when the array is freed, in which an interrupt (Ctrl-C) would be ignored
        in_use = _InUse(array, self._free.append)
        in_use.memory = memory
        self._in_use[id(in_use)] = in_use
        return array

    def _unused(self, nbytes: int) -> memoryview:
        try:
            memory = self._in_use.pop(id(released := self._free.pop())).memory
            del released
            while len(self._free) > self._spare:
                self._in_use.pop(id(self._free.popleft()))
            if nbytes <= len(memory) <= 2 * nbytes:
                return memory
        except IndexError:
            pass
        room = nbytes + nbytes // 8
        array: npt.NDArray[np.uint8] = np.empty(room + _ALIGNMENT, np.uint8)
        start = -array.ctypes.data % _ALIGNMENT
        return memoryview(array)[start : start + room]  # type: ignore[arg-type]
