"""Mutated image files become pixels or a SampleError, at once.

A changed header makes an image as large as `max_pixels` allows, and time and memory grow with the pixels.

20,000 mutations of each kind: python -m pytest -m slow tests/sources -k fuzzing
"""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from helpers.mutations import mutated, survive
from PIL import Image

from tokenstore.errors import SampleError
from tokenstore.sources.images import ImageOptions, decode_image
from tokenstore.sources.jpeg_coefficients import CoefficientDecoder, PlaneLayout
from tokenstore.sources.masks import load_mask

pytestmark = pytest.mark.filterwarnings("ignore")
SEEDS = [range(200), pytest.param(range(20_000), marks=pytest.mark.slow, id="20,000")]
PIXELS = np.asarray(
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 6, 4), np.uint8)).resize((40, 32))
)
RGBA = Image.fromarray(PIXELS)
RGB = RGBA.convert("RGB")
SIGNATURE_NBYTES = 8
MAX_PIXELS = 2**24


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def png_files() -> list[bytes]:
    deep = Image.fromarray(np.arange(32 * 40, dtype=np.uint16).reshape(32, 40) * 50)
    palette = RGB.quantize(60)
    return [
        encoded(RGB, "PNG", exif=turned(), icc_profile=bytes(200)),
        encoded(RGBA, "PNG"),
        encoded(deep, "PNG"),
        encoded(palette, "PNG", transparency=bytes(9)),
        encoded(palette, "PNG", bits=8, save_all=True, append_images=[palette]),
        encoded(RGB.convert("L"), "PNG", dpi=(72, 72)),
        encoded(RGB.convert("1"), "PNG"),
    ]


FILES = {
    "JPEG": [
        encoded(RGB, "JPEG", exif=turned(), comment=b"comment"),
        encoded(RGB, "JPEG", progressive=True, subsampling=0, icc_profile=bytes(200)),
        encoded(RGB.convert("L"), "JPEG", restart_marker_rows=1),
        encoded(RGBA.convert("CMYK"), "JPEG"),
        encoded(RGB, "MPO", save_all=True, append_images=[RGB]),
    ],
    "PNG": png_files(),
    "WEBP and AVIF": [
        encoded(RGB, "WEBP", exif=turned()),
        encoded(RGBA, "WEBP", lossless=True),
        encoded(RGB, "WEBP", save_all=True, append_images=[RGB]),
        encoded(RGBA, "AVIF", speed=10),
        encoded(RGB, "AVIF", speed=10),
    ],
    "others": [
        encoded(RGB.quantize(60), "GIF", transparency=3, save_all=True, append_images=[RGB.quantize(7)]),
        encoded(RGB, "BMP"),
        encoded(RGB.quantize(16), "BMP"),
        encoded(RGBA, "TIFF", tiffinfo=turned()),
        *(encoded(RGB, "TIFF", compression=name) for name in ("tiff_lzw", "jpeg", "tiff_adobe_deflate")),
        encoded(RGB.convert("1"), "TIFF", compression="group4"),
        encoded(RGB, "PPM"),
        encoded(RGB.convert("1"), "PPM"),
        encoded(RGB, "JPEG2000"),
    ],
}


def with_right_checksums(png: bytes) -> bytes:
    """Return a PNG file whose chunks, as far as they can be told apart, have their checksums."""
    data, place = bytearray(png), SIGNATURE_NBYTES
    while place + 12 <= len(data):
        stop = place + 12 + struct.unpack_from(">I", data, place)[0]
        if stop > len(data):
            break
        struct.pack_into(">I", data, stop - 4, zlib.crc32(data[place + 4 : stop - 4]))
        place = stop
    return bytes(data)


def mutated_image(files: list[bytes]) -> Callable[[random.Random], bytes]:
    def mutate(rng: random.Random) -> bytes:
        data = mutated(rng.choice(files), rng)
        return with_right_checksums(data) if rng.random() < 0.5 else data

    return mutate


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("kind", FILES)
def test_fuzzing_images(kind: str, seeds: range) -> None:
    def read(data: object) -> None:
        assert isinstance(data, bytes)
        assert decode_image(data, ImageOptions(16, max_pixels=MAX_PIXELS)).pixels.shape == (16, 16, 3)

    for file in FILES[kind]:
        read(file)
    refused = survive(mutated_image(FILES[kind]), read, SampleError, seeds)
    assert 0.1 * len(seeds) < refused < 0.95 * len(seeds)


@pytest.mark.parametrize("seeds", SEEDS)
def test_fuzzing_label_maps(seeds: range) -> None:
    def read(data: object) -> None:
        assert isinstance(data, bytes)
        assert load_mask(data, MAX_PIXELS).ndim == 2

    refused = survive(mutated_image(FILES["PNG"][3:]), read, SampleError, seeds)
    assert 0.1 * len(seeds) < refused < 0.95 * len(seeds)


@pytest.mark.parametrize("seeds", SEEDS)
def test_fuzzing_the_coefficients_of_jpeg_files(seeds: range) -> None:
    decoder = CoefficientDecoder(
        ImageOptions((32, 48), max_pixels=MAX_PIXELS), PlaneLayout(64, 64, 64, "420"), 75
    )
    image = RGB.resize((48, 32))
    files = [
        encoded(image, "JPEG", subsampling="4:2:0"),
        encoded(image, "JPEG", subsampling="4:2:0", progressive=True),
        encoded(image.convert("L"), "JPEG"),
    ]
    out = np.empty(decoder.shape, decoder.dtype)

    def read(data: object) -> None:
        assert isinstance(data, bytes)
        decoder.decode(data, out)

    for file in files:
        read(file)
    survive(mutated_image(files), read, SampleError, seeds)
