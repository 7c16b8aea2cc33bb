"""Parts of an image file that decide no pixel don't matter, however large or damaged."""

from __future__ import annotations

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tokenstore.errors import SampleError
from tokenstore.sources.images import ImageOptions, decode_image, load_image
from tokenstore.sources.masks import load_mask

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
HEADER_END = 8 + 25
NOISE = os.urandom(2_300_000).hex().encode()[:3_000_000]


def encoded(image: np.ndarray | Image.Image, format: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, format, **options)
    return file.getvalue()


def chunk(kind: bytes, content: bytes, flip: int = 0) -> bytes:
    """Return a PNG chunk; `flip` makes its checksum wrong."""
    crc = zlib.crc32(kind + content) ^ flip
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


def with_chunk(png: bytes, added: bytes, at_end: bool = False) -> bytes:
    """Add a chunk behind the header, or before the end."""
    place = len(png) - 12 if at_end else HEADER_END
    return png[:place] + added + png[place:]


LARGE = {
    "zTXt": chunk(b"zTXt", b"Comment\0\0" + zlib.compress(NOISE)),
    "iTXt": chunk(b"iTXt", b"Comment\0\x01\0\0\0" + zlib.compress(NOISE)),
    "iCCP": chunk(b"iCCP", b"profile\0\0" + zlib.compress(NOISE)),
}
DAMAGED = {
    kind.decode(): chunk(kind, b"some content", 1)
    for kind in (b"tEXt", b"iTXt", b"zTXt", b"iCCP", b"gAMA", b"pHYs", b"tIME", b"eXIf", b"prIv", b"acTL")
}
MALFORMED = {
    f"{kind} of {len(content)}": chunk(kind.encode(), content)
    for kind in ("gAMA", "cHRM", "sRGB", "pHYs", "iCCP", "zTXt", "iTXt", "tEXt", "acTL", "fcTL", "eXIf")
    for content in (b"", b"\xff", b"\xff" * 40)
}


@pytest.mark.parametrize("at_end", [False, True])
@pytest.mark.parametrize("added", [*LARGE, *DAMAGED, *MALFORMED])
def test_a_sound_png_file_is_read_whatever_its_ancillary_chunks(added: str, at_end: bool) -> None:
    content = (LARGE | DAMAGED | MALFORMED)[added]
    png = with_chunk(encoded(PIXELS), content, at_end)
    assert np.array_equal(np.asarray(load_image(png)), PIXELS)


def test_texts_without_compression_may_be_of_any_size() -> None:
    png = with_chunk(encoded(PIXELS), chunk(b"iTXt", b"Comment\0\0\0\0\0" + bytes(65 * 2**20)))
    assert np.array_equal(np.asarray(load_image(png)), PIXELS)


def test_label_maps_are_read_whatever_their_ancillary_chunks() -> None:
    for added in (LARGE["zTXt"], DAMAGED["tIME"]):
        assert np.array_equal(load_mask(with_chunk(encoded(PIXELS[..., 0]), added)), PIXELS[..., 0])


@pytest.mark.parametrize("added", [LARGE["zTXt"], DAMAGED["tIME"]])
def test_orientation_and_transparency_stay(added: bytes) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    turned = with_chunk(encoded(PIXELS, exif=exif), added)
    assert np.array_equal(np.asarray(load_image(turned)), PIXELS[::-1, ::-1])
    xmp = chunk(b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="3"/>')
    turned = with_chunk(encoded(PIXELS), xmp + added)
    assert np.array_equal(np.asarray(load_image(turned)), PIXELS[::-1, ::-1])
    grey = np.array([[7, 50]], np.uint8)
    assert np.asarray(load_image(with_chunk(encoded(grey, transparency=7), added)))[0, :, 0].tolist() == [
        255,
        50,
    ]


@pytest.mark.parametrize("kind", [b"IHDR", b"IDAT", b"PLTE", b"tRNS"])
def test_damage_in_chunks_that_decide_pixels_is_a_bad_image(kind: bytes) -> None:
    image = Image.fromarray(PIXELS).quantize(8)
    png = bytearray(encoded(image, transparency=bytes(8)))
    png[png.index(kind) + 5] ^= 1
    with pytest.raises(SampleError):
        load_image(bytes(png))
    with pytest.raises(SampleError):
        load_image(with_chunk(bytes(png), DAMAGED["tEXt"]))


def test_a_bomb_behind_damaged_chunks_is_refused_by_its_header() -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    png = b"\x89PNG\r\n\x1a\n" + header + DAMAGED["tEXt"] + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    for read in (load_image, load_mask):
        with pytest.raises(SampleError, match=r"2500000000 pixels\) exceeds limit"):
            read(png)
    with pytest.raises(SampleError, match="9 x 6 is more than the 53 pixels allowed"):
        load_mask(encoded(PIXELS[..., 0]), 53)


@pytest.mark.parametrize(
    "segment",
    [
        b"\xff\xe0\x00\x07JFIF\0",
        b"\xff\xe2\x00\x0eICC_PROFILE\0",
        b"\xff\xee\x00\x07Adobe",
        b"\xff\xfe\x00\x02",
    ],
)
def test_a_sound_jpeg_file_is_read_whatever_its_application_segments(segment: bytes) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    jpeg = encoded(PIXELS, "JPEG", exif=exif)
    expected = decode_image(jpeg, ImageOptions((6, 9))).pixels
    changed = decode_image(jpeg[:2] + segment + jpeg[2:], ImageOptions((6, 9))).pixels
    assert np.array_equal(changed, expected)
