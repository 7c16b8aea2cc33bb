"""The reader of arrays in `.npy` files and `.npz` archives, by ranges of rows: never mapped or read whole."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
import numpy.lib.format as npy_format
import numpy.typing as npt

from tokenstore.errors import SourceError
from tokenstore.sources.forward_stream import ForwardStream

_HEADER_BYTES = 2**16
_NPY = ".npy"


@dataclass(frozen=True)
class StoredArray:
    """An array in a file, of which rows are read on demand."""

    where: str
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    offset: int
    """The offset in bytes at which the values begin."""
    read: Callable[[int, int], bytes | bytearray]
    """A function that reads bytes of the file: `read(start, count)`."""

    def __len__(self) -> int:
        return self.shape[0] if self.shape else 0

    def rows(self, start: int, stop: int) -> npt.NDArray[np.generic]:
        """Read rows [start, stop) in the machine's byte order; raise SourceError where they are damaged."""
        bytes_a_row = self.dtype.itemsize * math.prod(self.shape[1:])
        data = self.read(self.offset + start * bytes_a_row, (stop - start) * bytes_a_row)
        rows = np.frombuffer(data, self.dtype).reshape(stop - start, *self.shape[1:])
        return rows.astype(self.dtype.newbyteorder("="), copy=False)

    def whole(self) -> npt.NDArray[np.generic]:
        """Read all rows."""
        return self.rows(0, len(self))


def open_npy(path: Path) -> StoredArray:
    """Open the array of a `.npy` file; raise SourceError for objects, Fortran order and cut-off files."""
    try:
        size = path.stat().st_size
        head = _read_range(path, 0, min(size, _HEADER_BYTES))
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror or error}") from error
    return _parse(head, size, str(path), partial(_read_range, path))


def open_npz(path: Path) -> dict[str, StoredArray]:
    """Open the arrays of a `.npz` archive, compressed or not, by name.

    Raises SourceError for a damaged archive, objects, and Fortran order.
    """
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if not member.filename.endswith(_NPY):
                    continue
                name = member.filename.removesuffix(_NPY)
                where = f"{path}: array {name!r}"
                stream = ForwardStream(partial(_open_member, path, member.filename), where)
                head = stream.read(0, min(member.file_size, _HEADER_BYTES))
                arrays[name] = _parse(head, member.file_size, where, stream.read)
    except (OSError, zipfile.BadZipFile) as error:
        raise SourceError(f"{path}: expected an .npz archive: {error}") from error
    return arrays


def _open_member(path: Path, name: str) -> IO[bytes]:
    # subtle: the member keeps the archive's file open until the member is closed
    with zipfile.ZipFile(path) as archive:
        return archive.open(name)


def _read_range(path: Path, start: int, count: int) -> bytearray:
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(start)
            data = bytearray(count)
            view, done = memoryview(data), 0
            while done < count and (read := file.readinto(view[done:])):
                done += read
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror or error}") from error
    if done < count:
        raise SourceError(f"{path}: truncated: {count} bytes expected at {start}, found {done}")
    return data


def _parse(
    head: bytes | bytearray, size: int, where: str, read: Callable[[int, int], bytes | bytearray]
) -> StoredArray:
    stream = io.BytesIO(head)
    try:
        version = npy_format.read_magic(stream)
        parse = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
        shape, fortran_order, dtype = parse(stream)
    except ValueError as error:
        raise SourceError(f"{where}: expected the .npy format: {error}") from error
    if dtype.hasobject:
        raise SourceError(f"{where}: holds Python objects, which are not read; save numbers")
    if fortran_order and len(shape) > 1:
        raise SourceError(f"{where}: in Fortran order; save np.ascontiguousarray(codes)")
    offset = stream.tell()
    expected = offset + dtype.itemsize * math.prod(shape)
    if size != expected:
        raise SourceError(
            f"{where}: {dtype} {shape} takes {expected} bytes, found {size}: cut off or damaged"
        )
    return StoredArray(where, dtype, shape, offset, read)
