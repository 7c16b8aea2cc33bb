"""A PNG file whose data ends before its last row is a bad sample, not an image with black rows."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tokenstore.errors import SampleError
from tokenstore.sources.images import load_image
from tokenstore.sources.masks import load_mask


def png(rows: list[bytes], width: int, height: int, depth: int, kind: int, interlaced: int = 0) -> bytes:
    """Return a PNG file of rows, each with the number of its filter."""
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, interlaced)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b"")]
    if kind == 3:
        chunks.insert(1, (b"PLTE", bytes(range(48))))
    parts = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


LAYOUTS = [(5, 4, 8, 2), (9, 3, 1, 0), (7, 5, 4, 3), (3, 2, 16, 0), (1, 1, 8, 4), (4, 6, 8, 6)]


@pytest.mark.parametrize(("width", "height", "depth", "kind"), LAYOUTS)
def test_an_image_without_its_last_row_is_refused_and_a_black_one_is_not(
    width: int, height: int, depth: int, kind: int
) -> None:
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
    rows = [bytes(1 + (width * depth * channels + 7) // 8)] * height
    assert load_image(png(rows, width, height, depth, kind)).size == (width, height)
    cut = png([*rows[:-1], rows[-1][:-1]], width, height, depth, kind)
    with pytest.raises(SampleError, match=r"truncated"):
        load_image(cut)


@pytest.mark.parametrize("size", [(8, 8), (5, 3), (1, 2), (9, 7), (2, 1)])
def test_the_rows_of_an_interlaced_image_are_those_of_its_passes(size: tuple[int, int]) -> None:
    width, height = size
    rows = []
    for column, row, across, down in (
        (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)
    ):  # fmt: skip
        columns = len(range(column, width, across))
        rows += [bytes(1 + 3 * columns) for _ in range(row, height, down) if columns]
    assert load_image(png(rows, width, height, 8, 2, 1)).size == size
    with pytest.raises(SampleError, match="truncated"):
        load_image(png(rows[:-1], width, height, 8, 2, 1))


def test_half_an_image_is_refused_as_an_image_and_as_a_label_map() -> None:
    pixels = np.random.default_rng(0).integers(1, 255, (40, 30), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    assert load_mask(file.getvalue(), 10**6).shape == pixels.shape
    half = png([b"\0" + row.tobytes() for row in pixels[:20]], 30, 40, 8, 0)
    for load in (load_image, lambda data: load_mask(data, 10**6)):
        with pytest.raises(SampleError, match="expected 1,240 bytes of pixels, found 620"):
            load(half)
