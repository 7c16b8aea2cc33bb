"""Members of zip files that are inflated no further than they are needed.

zipfile bounds what it inflates of deflated members alone: of bzip2 and LZMA it inflates all that it has read,
and three hundred bytes of bzip2 can become gigabytes.
"""

from __future__ import annotations

import bz2
import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator
from io import BufferedIOBase
from typing import IO, TypeAlias

from tokenstore.storage.base import LOCAL_BLOCK_NBYTES

__all__ = ["ZIP_ERRORS", "inflated", "is_bounded"]

ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    lzma.LZMAError,
    EOFError,
    OverflowError,
    RuntimeError,
    ValueError,
)
"""The exceptions that zipfile raises as it reads a damaged zip file, OSError aside."""

_Bytes: TypeAlias = IO[bytes] | BufferedIOBase

_LZMA_HEAD_NBYTES = 4
"""The bytes before the properties of an LZMA stream in a zip file: a version, and the properties' length."""
_UNKNOWN_SIZE = b"\xff" * 8
_READ_NBYTES = 65536


def inflated(file: _Bytes, member: zipfile.ZipInfo, stop: int | None = None) -> Iterator[bytes]:
    """Yield the bytes of a member up to `stop`, in blocks, without inflating more than a block beyond.

    `file` is what zipfile gives for the member where its method is stored or deflated, and the member's
    compressed bytes otherwise. Raises what zipfile raises for a damaged member.
    """
    left = member.file_size if stop is None else min(stop, member.file_size)
    if is_bounded(member):
        while left > 0 and (block := file.read(min(left, LOCAL_BLOCK_NBYTES))):
            left -= len(block)
            yield block
        return
    decompressor = _decompressor(file, member)
    crc, whole = 0, left == member.file_size
    while left > 0:
        data = file.read(_READ_NBYTES) if decompressor.needs_input else b""
        if decompressor.needs_input and not data:
            raise EOFError(f"{member.filename} ends too early")
        block = decompressor.decompress(data, min(left, LOCAL_BLOCK_NBYTES))
        left -= len(block)
        crc = zlib.crc32(block, crc)
        yield block
        if decompressor.eof and left:
            raise zipfile.BadZipFile(f"{member.filename} has {left} bytes less than the directory says")
    if whole and crc != member.CRC:
        raise zipfile.BadZipFile(f"Bad CRC-32 for file {member.filename!r}")


def is_bounded(member: zipfile.ZipInfo) -> bool:
    """Return True if zipfile inflates no more of a member than it is asked for."""
    return member.compress_type not in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


def _decompressor(file: _Bytes, member: zipfile.ZipInfo) -> bz2.BZ2Decompressor | lzma.LZMADecompressor:
    if member.compress_type == zipfile.ZIP_BZIP2:
        return bz2.BZ2Decompressor()
    head = file.read(_LZMA_HEAD_NBYTES)
    properties = file.read(int.from_bytes(head[2:], "little"))
    decompressor = lzma.LZMADecompressor(lzma.FORMAT_ALONE)
    decompressor.decompress(properties + _UNKNOWN_SIZE, 0)
    return decompressor
