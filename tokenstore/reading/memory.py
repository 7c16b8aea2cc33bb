"""Memory that is used again: pages that are new from the system are slow when they are first touched."""

from __future__ import annotations

import weakref
from collections import deque

import numpy as np
import numpy.typing as npt

__all__ = ["ReusedMemory"]


_ALIGNMENT = 64
"""Of the widest stores of vectors that there are; torch's own."""


class _Lent(weakref.ref[npt.NDArray[np.uint8]]):
    """An array that is in use, and the memory that it is part of."""

    memory: memoryview


class ReusedMemory:
    """Arrays whose memory is used again once nobody holds them or any view of them.

    At most `spare` unused pieces are kept, the last ones. Threads may share it.
    """

    def __init__(self, spare: int) -> None:
        self._spare = spare
        self._free: deque[_Lent] = deque()
        self._lent: dict[int, _Lent] = {}

    def __reduce__(self) -> tuple[type[ReusedMemory], tuple[int]]:
        return ReusedMemory, (self._spare,)

    def take(self, nbytes: int) -> npt.NDArray[np.uint8]:
        """An array (nbytes,) uint8, aligned for any dtype, that nobody else uses."""
        memory = self._unused(nbytes)
        # subtle: numpy makes this very array the base of every view of it, since its own base is none
        array: npt.NDArray[np.uint8] = np.frombuffer(memory, np.uint8, nbytes)
        # subtle: no Python is called when it is freed, in which an interrupt (Ctrl-C) would be ignored
        lent = _Lent(array, self._free.append)
        lent.memory = memory
        self._lent[id(lent)] = lent
        return array

    def _unused(self, nbytes: int) -> memoryview:
        try:
            memory = self._lent.pop(id(lent := self._free.pop())).memory
            del lent
            while len(self._free) > self._spare:
                self._lent.pop(id(self._free.popleft()))
            if nbytes <= len(memory) <= 2 * nbytes:
                return memory
        except IndexError:
            pass
        room = nbytes + nbytes // 8
        array: npt.NDArray[np.uint8] = np.empty(room + _ALIGNMENT, np.uint8)
        start = -array.ctypes.data % _ALIGNMENT
        return memoryview(array)[start : start + room]  # type: ignore[arg-type]
