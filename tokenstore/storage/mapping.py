"""Parts of files mapped into memory: no descriptor stays open, and there may be tens of thousands.

`mmap.mmap` keeps a copy of its file's descriptor before Python 3.13, of which a process may often have 1,024.
So the system's own `mmap` is called, which needs none once it has returned.
"""

from __future__ import annotations

import ctypes
import logging
import mmap
import os
import sys
from collections import deque
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["map_file", "may_map"]

_CALLS_SYSTEM = os.name == "posix" and sys.maxsize > 2**32
_UNKNOWN_LIMIT = 2**15
_OTHERS = 2**14
"""The mappings that are left to libraries, threads and large arrays, which take a few thousand at most."""
_MOST = 2**20
"""The most mappings of a process: each that it may still have takes 8 bytes, and some systems allow 2**31."""
_LIMIT_OF_DESCRIPTORS = 64
"""The most mappings where each has a descriptor."""
_MAX_MAP_COUNT = Path("/proc/sys/vm/max_map_count")
_log = logging.getLogger(__name__)


def most_mappings() -> int:
    """Return how many mappings this process may have for files, `_MOST` at most.

    Of those that the system allows, `_OTHERS` are left to the process's other memory, or half if those are
    fewer.
    """
    if not _CALLS_SYSTEM:
        return _LIMIT_OF_DESCRIPTORS
    try:
        allowed = int(_MAX_MAP_COUNT.read_text())
        return min(_MOST, max(allowed // 2, allowed - _OTHERS))
    except (OSError, ValueError):
        return _UNKNOWN_LIMIT


_unused: deque[None] = deque([None] * most_mappings())
"""An item for each further mapping that this process may have. subtle: taking and returning an item needs no
lock, which another thread may have at a fork."""


def may_map() -> bool:
    """Return whether this process may map a further file."""
    return bool(_unused)


def map_file(descriptor: int, offset: int, nbytes: int) -> npt.NDArray[np.uint8] | None:
    """Map bytes of an open file, which may be closed then, and return them (nbytes,) uint8, read-only.

    The mapping lasts as long as the array or a view of it. Returns None where the process has as many
    mappings as it may have. The caller knows that the file has so many bytes.
    """
    unused = _unused
    try:
        unused.pop()
    except IndexError:
        _warn()
        return None
    try:
        return np.asarray(_Mapping(descriptor, offset, nbytes, unused))
    except (OSError, ValueError):  # the system allows no more, or the file has shrunk
        _warn()
        return None


@cache
def _warn() -> None:
    """Log once that further files are not mapped."""
    _log.warning(
        "this process maps no more shards into memory (%d may be mapped): random reads of further ones are "
        "slow; where the system is Linux, raise its vm.max_map_count",
        most_mappings(),
    )


class _Mapping:
    """A mapping of a file's bytes, which ends with the last array of them. Raises OSError and ValueError.

    It gives an item to `unused` when it ends.
    """

    def __init__(self, descriptor: int, offset: int, nbytes: int, unused: deque[None]) -> None:
        self._address, self._unused = 0, unused
        before = offset % mmap.ALLOCATIONGRANULARITY
        self._nbytes = before + nbytes
        if _CALLS_SYSTEM:
            address = _system().mmap(
                None, self._nbytes, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, offset - before
            )
            if address == ctypes.c_void_p(-1).value:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            self._unmap, self._address = _system().munmap, address
        else:
            self._pages = mmap.mmap(descriptor, self._nbytes, access=mmap.ACCESS_READ, offset=offset - before)
            address = np.frombuffer(self._pages, np.uint8).ctypes.data
        self.__array_interface__ = {
            "version": 3,
            "shape": (nbytes,),
            "typestr": "|u1",
            "data": (address + before, True),
        }

    def __del__(self) -> None:
        # subtle: names of the module may be gone when Python ends, so the object has all that is needed
        if self._address:
            self._unmap(self._address, self._nbytes)
        self._unused.append(None)


@cache
def _system() -> Any:
    """Return the C library with the types of `mmap` and `munmap`."""
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = (
        *(ctypes.c_void_p, ctypes.c_size_t),
        *(ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64),
    )
    library.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    return library
