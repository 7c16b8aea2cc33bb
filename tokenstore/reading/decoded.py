"""The decoded values of a whole array of small samples, such as labels: in memory, or in a temporary file."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["DecodedValues", "NoRoomError"]

IN_MEMORY_NBYTES = 2**30
"""The most bytes of an array's values that stay in memory; those of a larger array are in a file."""


class NoRoomError(Exception):
    """A temporary file for decoded values could not be made, or not be filled. It never leaves `reading`."""


class DecodedValues:
    """Room for all values (N, *sample_shape) of an array, which are put in chunk by chunk.

    A large array's are in a temporary file that has no name and is mapped: the system writes what it has no
    memory for to the disk. The file is this process's own, and that of its forks, who put in the same values.
    Raises NoRoomError.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], chunks: int) -> None:
        self.is_decoded = np.zeros(chunks, np.bool_)
        """True for each chunk whose values were put in."""
        self._file = None
        nbytes = dtype.itemsize * math.prod(shape)
        self.in_memory = nbytes <= IN_MEMORY_NBYTES
        if self.in_memory:
            self.values: npt.NDArray[Any] = np.empty(shape, dtype)
            return
        try:
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (no context lasts as long)
            weakref.finalize(self, self._file.close)
            self._file.truncate(nbytes)
            # subtle: not by map_file, all of whose mappings may be of shards
            pages = mmap.mmap(self._file.fileno(), nbytes, access=mmap.ACCESS_READ)
        except OSError as error:
            raise NoRoomError(str(error)) from error
        if not hasattr(os, "pwrite"):
            raise NoRoomError("this system has no pwrite")
        self.values = np.frombuffer(pages, dtype).reshape(shape)

    def put(self, chunk: int, start: int, values: npt.NDArray[Any]) -> None:
        """Put in a chunk's values, which begin in row `start`; raises NoRoomError."""
        if self._file is None:
            self.values[start : start + len(values)] = values
        else:
            self._write(self._file.fileno(), start * (values.nbytes // len(values)), values)
        self.is_decoded[chunk] = True

    def _write(self, descriptor: int, position: int, values: npt.NDArray[Any]) -> None:
        # subtle: written, not assigned through the mapping, which would end the process on a full disk
        data = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
        try:
            while data:
                count = os.pwrite(descriptor, data, position)
                data, position = data[count:], position + count
        except OSError as error:
            raise NoRoomError(str(error)) from error
