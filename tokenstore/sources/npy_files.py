"""The reader of arrays in `.npy` files and `.npz` archives, by ranges of rows: never mapped or read whole."""

from __future__ import annotations

import hashlib
import io
import math
import reprlib
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
import numpy.lib.format as npy_format
import numpy.typing as npt

from tokenstore.errors import SourceError
from tokenstore.sources.files import LocalFile
from tokenstore.sources.forward_stream import STREAM_ERRORS, ForwardStream

_HEADER_BYTES = 2**16
_NPY = ".npy"
_VERSIONS = {
    (1, 0): npy_format.read_array_header_1_0,
    (2, 0): npy_format.read_array_header_2_0,
    (3, 0): npy_format.read_array_header_2_0,
}
_SURROGATES = (0xD800, 0xE000)
"""The numbers from the first on and before the second are halves of characters."""
_MAX_RANK = 32
"""The number of dimensions that every version of NumPy can have."""
_MAX_ARRAYS = 1000
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""The methods by which NumPy packs archives."""
_MOST_INFLATED = 1032
"""The bytes that a byte of deflated data gives at most (RFC 1951: 258 bytes of 2 bits)."""
_WHOLE_NBYTES = 2**28
"""The bytes of an array that is read whole, such as class names, if the caller doesn't say."""
_BLOCK, _BLOCKS = 2**12, 64
"""The bytes of a block that is read for a fingerprint, and the most blocks, which are evenly spread."""


def _do_nothing() -> None: ...


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
    close: Callable[[], None] = _do_nothing
    """A function that closes the file until it is read again."""
    checksum: int | None = None
    """The CRC-32 of the file, where an archive says it."""

    def __len__(self) -> int:
        return self.shape[0] if self.shape else 0

    def rows(self, start: int, stop: int) -> npt.NDArray[np.generic]:
        """Read rows [start, stop) in the machine's byte order; raise SourceError where they are damaged."""
        bytes_a_row = self.dtype.itemsize * math.prod(self.shape[1:])
        data = self.read(self.offset + start * bytes_a_row, (stop - start) * bytes_a_row)
        rows = np.frombuffer(data, self.dtype).reshape(stop - start, *self.shape[1:])
        return rows.astype(self.dtype.newbyteorder("="), copy=False)

    def fingerprint(self) -> str:
        """Return a hex digest of the type, the shape and the values, of which up to 64 blocks are read.

        An archive's checksum stands for all values. Raises SourceError where the file cannot be read.
        """
        whole = hashlib.sha256(repr((self.dtype.str, self.shape, self.checksum)).encode())
        if self.checksum is None:
            last = max(0, self.nbytes - _BLOCK)
            for start in dict.fromkeys(last * block // (_BLOCKS - 1) for block in range(_BLOCKS)):
                whole.update(self.read(self.offset + start, min(_BLOCK, self.nbytes - start)))
        return whole.hexdigest()

    @property
    def nbytes(self) -> int:
        """The bytes of all values."""
        return self.dtype.itemsize * math.prod(self.shape)

    def whole(self, most: int = _WHOLE_NBYTES) -> npt.NDArray[np.generic]:
        """Read all rows; raise SourceError where they take more bytes than `most`."""
        if self.nbytes > most:
            raise SourceError(f"{self.where}: expected at most {most} bytes, found {self.nbytes}")
        try:
            return self.rows(0, len(self))
        finally:
            self.close()


def open_npy(path: Path) -> StoredArray:
    """Open the array of a `.npy` file; raise SourceError for objects, Fortran order and cut-off files."""
    try:
        file = LocalFile.of(path)
        size = file.nbytes
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror or error}") from error
    head = _read_range(file, 0, min(size, _HEADER_BYTES))
    return _parse(head, size, str(path), partial(_read_range, file))


def open_npz(path: Path) -> dict[str, StoredArray]:
    """Open the arrays of a `.npz` archive, compressed or not, by name.

    Raises SourceError for a damaged archive, objects, and Fortran order.
    """
    file = LocalFile.of(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if member.filename.endswith(_NPY)]
        length = file.nbytes
    except STREAM_ERRORS as error:
        raise SourceError(f"{path}: expected an .npz archive: {error}") from error
    names = [member.filename.removesuffix(_NPY) for member in members]
    if len(set(names)) < len(names) or len(names) > _MAX_ARRAYS:
        raise SourceError(
            f"{path}: expected up to {_MAX_ARRAYS} arrays of different names, found {len(names)} arrays of "
            f"{len(set(names))} names"
        )
    return {name: _open_array(file, member, length) for name, member in zip(names, members, strict=True)}


def parse_npy(data: bytes, where: str) -> npt.NDArray[np.generic]:
    """Return the array that the bytes of a `.npy` file hold; raise SourceError for others and for objects."""
    return _parse(data, len(data), where, lambda start, count: data[start : start + count]).whole(len(data))


def check_characters(texts: npt.NDArray[np.generic], where: str, expected: str = "texts") -> None:
    """Raise SourceError unless texts, of NumPy's kind U, are of Unicode's characters."""
    characters = np.ascontiguousarray(texts).view(np.uint32)
    wrong = (characters > sys.maxunicode) | ((characters >= _SURROGATES[0]) & (characters < _SURROGATES[1]))
    if wrong.any():
        raise SourceError(f"{where}: expected {expected}, found U+{characters[wrong][0]:X}, no character")


def npy_header(head: bytes, size: int, where: str) -> tuple[np.dtype[np.generic], tuple[int, ...], int]:
    """Return the dtype and the shape in a `.npy` file of so many bytes, and where its values begin.

    `head` are its first bytes. Raises SourceError as `open_npy` does.
    """
    stored = _parse(head, size, where, lambda start, count: head[start : start + count])
    return stored.dtype, stored.shape, stored.offset


def _open_array(file: LocalFile, member: zipfile.ZipInfo, length: int) -> StoredArray:
    """Open the array in a member of an archive of `length` bytes."""
    where = f"{file}: array {member.filename.removesuffix(_NPY)!r}"
    if member.compress_type not in _METHODS or member.flag_bits & 1:
        raise SourceError(f"{where}: neither stored nor deflated; write the file with np.savez_compressed")
    most = member.compress_size * (1 if member.compress_type == zipfile.ZIP_STORED else _MOST_INFLATED)
    if member.compress_size > length or member.file_size > most:
        raise SourceError(
            f"{where}: {member.file_size} bytes cannot come of {member.compress_size}: the archive is damaged"
        )
    stream = ForwardStream(partial(_open_member, file.path, member.filename), where, file)
    head = stream.read(0, min(member.file_size, _HEADER_BYTES))
    stream.close()  # an archive may have more arrays than a process may have open files
    stored = _parse(head, member.file_size, where, stream.read)
    return replace(stored, close=stream.close, checksum=member.CRC)


def _open_member(path: str, name: str) -> IO[bytes]:
    # subtle: the member keeps the archive's file open until the member is closed
    with zipfile.ZipFile(path) as archive:
        return archive.open(name)


def _read_range(file: LocalFile, start: int, count: int) -> bytearray:
    try:
        with Path(file.path).open("rb", buffering=0) as opened:
            opened.seek(start)
            data = bytearray(count)
            view, done = memoryview(data), 0
            while done < count and (read := opened.readinto(view[done:])):
                done += read
    except OSError as error:
        raise SourceError(f"{file}: cannot be read: {error.strerror or error}") from error
    file.check_unchanged()
    if done < count:
        raise SourceError(f"{file}: truncated: {count} bytes expected at {start}, found {done}")
    return data


def _parse(
    head: bytes | bytearray, size: int, where: str, read: Callable[[int, int], bytes | bytearray]
) -> StoredArray:
    stream = io.BytesIO(head)
    try:
        shape, fortran_order, dtype = _VERSIONS[npy_format.read_magic(stream)](stream)
    except Exception as error:  # NumPy evaluates the header as Python, which can fail in any way
        reason = reprlib.repr(" ".join(str(error).split()))
        raise SourceError(f"{where}: expected the .npy format: {type(error).__name__} {reason}") from error
    sizes = all(type(size) is int and size >= 0 for size in shape)
    if not sizes or len(shape) > _MAX_RANK or not dtype.itemsize:
        raise SourceError(
            f"{where}: expected up to {_MAX_RANK} dimensions of numbers, found {reprlib.repr(dtype)} "
            f"{reprlib.repr(shape)}"
        )
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
