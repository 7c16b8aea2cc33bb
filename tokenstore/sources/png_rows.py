"""The rows of PNG files that are not there.

Where the compressed data of a PNG file is sound but ends before the last row, Pillow leaves the other rows
black and raises no error. The sizes are those of the PNG specification
(https://www.w3.org/TR/png-3/#8InterlaceMethods).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from tokenstore.errors import SampleError
from tokenstore.sources.ancillary import PNG_SIGNATURE

__all__ = ["check_rows"]

_HEADER = struct.Struct(">II2B2xB")
"""Width, height, bit depth, colour type and interlace method, from the first chunk's content on."""
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_WHOLE = ((0, 0, 1, 1),)
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""The passes of an interlaced image: the first column and row, and the steps to the next."""
_BLOCK_NBYTES = 65536


def check_rows(data: bytes, image: Image.Image) -> None:
    """Raise SampleError for a decoded PNG image whose data ends before its last row.

    The data is inflated a second time only where one of the last two rows, of which the last pass of an
    interlaced image has one, is zero throughout.
    """
    if image.format != "PNG" or not data.startswith(PNG_SIGNATURE):
        return
    last = np.asarray(image.crop((0, max(0, image.height - 2), image.width, image.height)))
    if last.any(axis=tuple(range(1, last.ndim))).all():
        return
    expected, inflated = _expected_nbytes(data), 0
    inflater = zlib.decompressobj()
    for part in _image_data(data):
        while part and inflated < expected:
            inflated += len(inflater.decompress(part, _BLOCK_NBYTES))
            part = inflater.unconsumed_tail
    if inflated < expected:
        raise SampleError(f"truncated: expected {expected:,} bytes of pixels, found {inflated:,}")


def _expected_nbytes(data: bytes) -> int:
    """Return the bytes of all rows of all passes, each row with the number of its filter."""
    width, height, depth, kind, interlaced = _HEADER.unpack_from(data, len(PNG_SIGNATURE) + 8)
    total = 0
    for column, row, across, down in _ADAM7 if interlaced else _WHOLE:
        columns, rows = -((column - width) // across), -((row - height) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + (columns * depth * _CHANNELS.get(kind, 0) + 7) // 8)
    return total


def _image_data(data: bytes) -> Iterator[bytes]:
    """Yield the contents of the chunks that hold the image's compressed data."""
    position = len(PNG_SIGNATURE)
    while position + 12 <= len(data):
        stop = position + 12 + int.from_bytes(data[position : position + 4])
        if data[position + 4 : position + 8] == b"IDAT":
            yield data[position + 8 : stop - 4]
        position = stop
