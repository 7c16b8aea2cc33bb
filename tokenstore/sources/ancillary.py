"""Copies of image files without the parts that decide no pixel, for files whose decoder stumbles over those.

Pillow refuses a whole PNG file for one ancillary chunk with a wrong CRC or a text of more than 1 MB, and a
JPEG file for an application segment that is too short. Chunks are those of the PNG specification
(https://www.w3.org/TR/png-3/#5DataRep), segments those of ITU-T T.81, B.1.1.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator

__all__ = ["PNG_SIGNATURE", "readings"]

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_ANCILLARY = 0x20
"""The bit in the first byte of a chunk's type that says that the chunk can be ignored."""
_TRANSPARENCY = b"tRNS"
_ORIENTATION = (
    b"eXIf",
    b"iTXtXML:com.adobe.xmp\0",
    *(text + b"Raw profile type exif\0" for text in (b"tEXt", b"zTXt", b"iTXt")),
)
"""The beginnings of chunks, from their type on, that may say which way up the image is."""
_SOI = b"\xff\xd8"
_SOS, _COM, _APP = 0xDA, 0xFE, range(0xE0, 0xF0)
_SHORTEST = {0xE0: 14, 0xE1: 0, 0xEE: 12}
"""The least bytes of application segments that decide colours (JFIF, Adobe) and orientation (EXIF, XMP)."""


def readings(data: bytes) -> Iterator[bytes]:
    """Yield an image file, then copies of it with fewer and fewer parts that decide no pixel.

    The first copy keeps what says which way up the image is, unless its checksum is wrong.
    """
    yield data
    thinner: tuple[Callable[[bytes], bytes], ...] = ()
    if data.startswith(PNG_SIGNATURE):
        thinner = (lambda data: _thin_png(data, _ORIENTATION), lambda data: _thin_png(data, ()))
    elif data.startswith(_SOI):
        thinner = (_thin_jpeg,)
    before = len(data)
    for thin in thinner:
        copy = thin(data)
        if len(copy) < before:
            yield copy
        before = len(copy)


def _thin_png(data: bytes, beginnings: tuple[bytes, ...]) -> bytes:
    """Copy a PNG file without ancillary chunks, except transparency and sound chunks with such beginnings."""
    parts: list[bytes | memoryview] = [PNG_SIGNATURE]
    position, view = len(PNG_SIGNATURE), memoryview(data)
    while position + 12 <= len(data):
        stop = position + 12 + int.from_bytes(data[position : position + 4])
        if stop > len(data):
            break
        kind, body = data[position + 4 : position + 8], view[position + 4 : stop - 4]
        is_needed = not kind[0] & _ANCILLARY or kind == _TRANSPARENCY
        if not is_needed and beginnings and data.startswith(beginnings, position + 4):
            is_needed = zlib.crc32(body) == int.from_bytes(data[stop - 4 : stop])
        if is_needed:
            parts.append(view[position:stop])
        position = stop
    return b"".join((*parts, view[position:]))


def _thin_jpeg(data: bytes) -> bytes:
    """Copy a JPEG file without comments and application segments that decide no pixel, or are too short."""
    parts: list[bytes | memoryview] = [_SOI]
    position, view = len(_SOI), memoryview(data)
    while position + 4 <= len(data) and data[position] == 0xFF and data[position + 1] not in (0xFF, _SOS):
        marker = data[position + 1]
        stop = position + 2 + int.from_bytes(data[position + 2 : position + 4])
        is_needed = stop - position - 4 >= _SHORTEST.get(marker, len(data))
        if is_needed or not (marker in _APP or marker == _COM):
            parts.append(view[position:stop])
        position = stop
    return b"".join((*parts, view[position:]))
