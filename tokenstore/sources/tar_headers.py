"""The walk over the headers of an uncompressed tar file, which yields its members.

Python's tarfile stops without a word at a damaged header, and keeps an object for every member; this walk
does neither. The formats are ustar, GNU long names and pax (POSIX.1-2001, pax Interchange Format).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tokenstore.errors import SourceError
from tokenstore.sources.files import Reader, SourceFile, reading
from tokenstore.sources.names import printable

_BLOCK = 512
_MAX_EXTENSION_BYTES = 2**20
_OCTAL = re.compile(rb"[0-7]+")
"""The digits of a number field; `int(digits, 8)` takes signs and underscores besides."""
_DECIMAL = re.compile(rb"[0-9]{1,20}")
_NO_DATA = frozenset(b"123456")
"""The kinds of members without data, whatever the size field says: links, devices, folders and FIFOs."""
_COMPRESSIONS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


@dataclass(frozen=True)
class Member:
    """A member of a tar file, with the place of its bytes."""

    name: bytes
    offset: int
    size: int
    is_file: bool
    """True for a file whose bytes lie at the offset; False for folders, links, devices and sparse files."""
    is_folder: bool
    link: Link | None = None
    """The link that the member is, if it is one."""


@dataclass(frozen=True)
class Link:
    """A link to another member of a tar file."""

    target: bytes
    is_symbolic: bool
    """True for a target that is relative to the link's own folder, False for one that is a member's name."""


@dataclass
class _Extensions:
    """The values that extension headers give the next member."""

    name: bytes | None = None
    target: bytes | None = None
    size: int | None = None
    sparse: bool = False


def walk_tar(tar: SourceFile) -> Iterator[Member]:
    """Yield members in file order.

    Raises SourceError, naming file and offset, for a file that is not tar, is compressed, ends too early, or
    goes on after its end mark.
    """
    with reading(tar) as reader:
        yield from walk_headers(reader, tar)


def walk_headers(file: Reader, tar: SourceFile, length: int | None = None) -> Iterator[Member]:
    """Yield the members of an open tar file, as `walk_tar` does; others may read it between members.

    `length` are the bytes that members may take, by default those of the file.
    """
    length = tar.nbytes if length is None else length
    extensions, offset = _Extensions(), 0
    while True:
        header = _header(file, offset, tar)
        if header is None:
            _check_nothing_follows(file, offset, tar)
            return
        kind, size = header[156:157], _number(header[124:136], tar, offset)
        name = header[:100].partition(b"\0")[0]
        prefix = header[345:500].partition(b"\0")[0]
        if header[257:263] == b"ustar\0" and prefix:
            name = prefix + b"/" + name
        if kind not in b"LKxXg":
            name = name if extensions.name is None else extensions.name
            size = size if extensions.size is None else extensions.size
        start = offset + _BLOCK
        if kind == b"S":
            start = _after_sparse_headers(file, header, start)
        stop = start if kind[0] in _NO_DATA else start + size
        if stop > length:
            raise SourceError(
                f"{tar}: truncated: member {printable(name)!r} at offset {offset} should end at {stop}, "
                f"but the file ends at {length}"
            )
        offset = -(-stop // _BLOCK) * _BLOCK
        if kind in b"LKxXg":
            _read_extension(file, kind, start, size, extensions, tar)
            continue
        folder = kind == b"5" or (kind == b"\0" and name.endswith(b"/"))
        plain = kind in b"\x000" or kind == b"7"
        link = _link(kind, header, extensions)
        yield Member(name, start, size, plain and not folder and not extensions.sparse, folder, link)
        extensions = _Extensions()


def _link(kind: bytes, header: bytes, extensions: _Extensions) -> Link | None:
    """Return the link of a member that is a hard link (1) or a symbolic link (2)."""
    if kind not in b"12":
        return None
    target = extensions.target
    return Link(header[157:257].partition(b"\0")[0] if target is None else target, kind == b"2")


def _header(file: Reader, offset: int, tar: SourceFile) -> bytes | None:
    """Read the header at an offset; return None for the block of zeros that ends an archive."""
    file.seek(offset)
    header = file.read(_BLOCK)
    if offset == 0:
        for magic, name in _COMPRESSIONS.items():
            if header.startswith(magic):
                raise SourceError(
                    f"{tar}: compressed with {name}, so samples cannot be reached singly; decompress it first"
                )
        if not header:
            raise SourceError(f"{tar}: expected a tar file, found an empty file")
    if len(header) < _BLOCK:
        raise SourceError(
            f"{tar}: truncated: ends at offset {offset + len(header)} without the mark that ends a tar file"
        )
    if not any(header):
        return None
    expected = header[148:156].strip(b"\0 ")
    if not _OCTAL.fullmatch(expected) or int(expected, 8) != sum(header) - sum(header[148:156]) + 8 * ord(
        " "
    ):
        what = "damaged: no header" if offset else "not a tar file: no header"
        raise SourceError(f"{tar}: {what} at offset {offset}")
    return header


def _number(field: bytes, tar: SourceFile, offset: int) -> int:
    """Parse a number field: octal digits, or big-endian bytes after a set high bit (GNU)."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b"\0 ")
    if digits and not _OCTAL.fullmatch(digits):
        raise SourceError(f"{tar}: damaged: {field!r} is no size, at offset {offset}")
    return int(digits, 8) if digits else 0


def _read_extension(
    file: Reader, kind: bytes, start: int, size: int, extensions: _Extensions, tar: SourceFile
) -> None:
    """Take the values of an extension header for the next member."""
    if size > _MAX_EXTENSION_BYTES:
        raise SourceError(f"{tar}: damaged: a name of {size} bytes at offset {start}")
    file.seek(start)
    payload = file.read(size)
    if kind == b"L":
        extensions.name = payload.rstrip(b"\0")
    elif kind == b"K":
        extensions.target = payload.rstrip(b"\0")
    elif kind in b"xX":
        for key, value in _pax_records(payload, tar, start):
            if key == b"path":
                extensions.name = value
            elif key == b"linkpath":
                extensions.target = value
            elif key == b"size":
                extensions.size = int(value)
            elif key.startswith(b"GNU.sparse."):
                extensions.sparse = True


def _pax_records(payload: bytes, tar: SourceFile, start: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield key and value of records `length key=value newline`, where the length counts the whole record."""
    position = 0
    while position < len(payload) and payload[position]:
        digits = payload[position : position + 20].partition(b" ")[0]
        stop = position + int(digits) if digits.isdigit() else 0
        key, equals, value = payload[position + len(digits) + 1 : stop].partition(b"=")
        ends = stop <= len(payload) and value.endswith(b"\n")
        if not equals or not ends or (key == b"size" and not _DECIMAL.fullmatch(value[:-1])):
            raise SourceError(f"{tar}: damaged: no pax record at offset {start + position}")
        yield key, value[:-1]
        position = stop


def _after_sparse_headers(file: Reader, header: bytes, start: int) -> int:
    """Return the offset of the data of a sparse file, after the headers that continue the first."""
    continues = header[482]
    while continues:
        file.seek(start)
        block = file.read(_BLOCK)
        continues = len(block) == _BLOCK and block[504]
        start += _BLOCK
    return start


def _check_nothing_follows(file: Reader, offset: int, tar: SourceFile) -> None:
    file.seek(offset)
    while piece := file.read(2**20):
        if piece.count(0) < len(piece):
            raise SourceError(
                f"{tar}: holds more after its end mark at offset {offset}, as when tar files are put one "
                "behind the other; take them apart or build one tar file of their members"
            )
