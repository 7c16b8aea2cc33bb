"""Arrays of one shape in many small `.npy` files or members, stacked: a file a sample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from tokenstore.errors import SampleError, SourceError
from tokenstore.sources.file_bytes import read_file
from tokenstore.sources.npy_files import npy_header, parse_npy

__all__ = ["ArrayKind", "read_many"]

_THREADS = 8
"""The files that are read at a time: on a network's disk each waits most of the time."""
_FEW = 64
"""The files up to which threads are not worth it."""


@dataclass(frozen=True)
class ArrayKind:
    """The shape and the type of an array, and the first bytes of a `.npy` file that holds one like it."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    head: bytes

    @classmethod
    def of(cls, data: bytes, where: str) -> Self:
        """Return the kind of the array in the bytes of a `.npy` file; raise SourceError for other bytes."""
        dtype, shape, offset = npy_header(data, len(data), where)
        return cls(shape, dtype, data[:offset])

    @property
    def nbytes(self) -> int:
        """The bytes of a file of this kind."""
        return len(self.head) + self.dtype.itemsize * int(np.prod(self.shape, dtype=np.int64))

    def stacked(self, files: Sequence[tuple[str, bytes]]) -> npt.NDArray[np.generic]:
        """Return arrays (n, *shape) of files, each with its place for messages.

        Raises SourceError for files of another shape or type, and for damaged ones.
        """
        arrays = []
        for where, data in files:
            if len(data) == self.nbytes and data.startswith(self.head):  # no header is parsed twice
                array = np.frombuffer(data, self.dtype, offset=len(self.head)).reshape(self.shape)
                array = array.astype(self.dtype.newbyteorder("="), copy=False)
            else:
                array = parse_npy(data, where)
            if array.shape != self.shape or array.dtype != self.dtype.newbyteorder("="):
                raise SourceError(
                    f"{where}: expected {self.dtype} {self.shape} as in the first file, found {array.dtype} "
                    f"{array.shape}"
                )
            arrays.append(array)
        if not arrays:
            return np.empty((0, *self.shape), self.dtype.newbyteorder("="))
        return np.stack(arrays)


def read_many(paths: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Yield the paths and the bytes of local files, in order; raise SourceError for an unreadable one."""
    if len(paths) <= _FEW:
        yield from map(_read, paths)
        return
    with ThreadPoolExecutor(_THREADS, "tokenstore-files") as threads:
        yield from threads.map(_read, paths)


def _read(path: str) -> tuple[str, bytes]:
    data = read_file(path)
    if isinstance(data, SampleError):
        raise SourceError(f"{path}: {data}")
    return path, data
