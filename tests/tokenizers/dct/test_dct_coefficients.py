"""Coefficients and tables of JPEG files are those that an independent reader finds."""

from __future__ import annotations

import io
import tarfile

import numpy as np
import pytest
import torch
from helpers.jpeg_files import by_pillow, expected_codes, inputs_of, read_sequential, saved, scene, written
from helpers.paths import SHARED
from PIL import Image

from tokenstore.sources.jpeg_coefficients import ZIGZAG, parse_jpeg
from tokenstore.tokenizers.kinds.dct import load

DATA = SHARED / "data"
PHOTOGRAPHS = DATA / "imagenet-sample.tar"
THUMBNAILS = DATA / "tiny-imagenet-100.tar.gz"

T81_FIGURE_A6 = [
    [0, 1, 5, 6, 14, 15, 27, 28],
    [2, 4, 7, 13, 16, 26, 29, 42],
    [3, 8, 12, 17, 25, 30, 41, 43],
    [9, 11, 18, 24, 31, 40, 44, 53],
    [10, 19, 23, 32, 39, 45, 52, 54],
    [20, 22, 33, 38, 46, 51, 55, 60],
    [21, 34, 37, 47, 50, 56, 59, 61],
    [35, 36, 48, 49, 57, 58, 62, 63],
]


def assert_reads_alike(data: bytes) -> None:
    """Check that the library's reader gives what the independent reader gives."""
    expected, tables = read_sequential(data)
    jpeg = parse_jpeg(data)
    assert jpeg is not None
    assert jpeg.pixels() is not None
    found = jpeg.coefficients()
    assert len(found.blocks) == len(expected)
    assert all(np.array_equal(a, b) for a, b in zip(found.blocks, expected, strict=True))
    assert np.array_equal(found.tables, tables)


def test_the_zigzag_order_is_that_of_the_standard() -> None:
    assert np.array_equal(np.ravel(T81_FIGURE_A6)[ZIGZAG], np.arange(64))


@pytest.mark.parametrize("quality", [50, 75, 85, 95, 100])
@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4", "4:2:2"])
@pytest.mark.parametrize("size", [(64, 64), (37, 53), (8, 200), (1, 1)])
def test_coefficients_and_tables_are_those_of_an_independent_reader(
    size: tuple[int, int], subsampling: str, quality: int
) -> None:
    assert_reads_alike(saved(scene(*size, seed=quality), quality=quality, subsampling=subsampling))


def test_grey_and_restarting_and_optimised_files_and_tables_of_16_bits_are_read_alike() -> None:
    for options in ({}, {"restart_marker_blocks": 2}, {"optimize": True, "quality": 90}):
        assert_reads_alike(saved(scene(45, 61), **options))
        assert_reads_alike(saved(scene(45, 61)[..., 0], **options))
    blocks, tables = read_sequential(saved(scene(48, 64)))
    assert_reads_alike(written(blocks, tables + 7 * np.arange(64) + [[200], [300], [65000]]))


@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
def test_a_progressive_file_has_the_coefficients_of_the_sequential_one(subsampling: str) -> None:
    options = {"quality": 88, "subsampling": subsampling}
    for pixels in (scene(50, 70), scene(50, 70)[..., 0]):
        expected, tables = read_sequential(saved(pixels, **options))
        jpeg = parse_jpeg(saved(pixels, progressive=True, **options))
        assert jpeg is not None
        found = jpeg.coefficients()
        assert all(np.array_equal(a, b) for a, b in zip(found.blocks, expected, strict=True))
        assert np.array_equal(found.tables, tables)


@pytest.mark.skipif(not PHOTOGRAPHS.exists(), reason="the real photographs are not beside the repository")
def test_fifty_photographs_have_the_coefficients_that_an_independent_reader_finds() -> None:
    with tarfile.open(PHOTOGRAPHS) as tar:
        files = sorted((tar.extractfile(member).read() for member in tar if member.isfile()), key=len)
    for data in files[:50]:
        assert_reads_alike(data)
    whole = [data for data in files if all(side % 16 == 0 for side in Image.open(io.BytesIO(data)).size)]
    tokenizer = load("64")
    for data in whole[:10]:
        rebuilt = by_pillow(data)
        inputs = inputs_of(tokenizer, data, size=rebuilt.shape[1:])
        codes = tokenizer.encode(torch.from_numpy(inputs))
        assert np.array_equal(codes[0], expected_codes(data, (64, 64, 64), 2))
        assert np.array_equal(tokenizer.decode(codes, **tokenizer.column_values(inputs))[0], rebuilt)


@pytest.mark.skipif(not THUMBNAILS.exists(), reason="the real thumbnails are not beside the repository")
def test_thumbnails_go_to_their_coefficients_and_back_to_their_pixels() -> None:
    colour, grey = [], []
    with tarfile.open(THUMBNAILS, "r|gz") as tar:
        for member in tar:
            if member.name.endswith(".JPEG"):
                data = tar.extractfile(member).read()
                (grey if Image.open(io.BytesIO(data)).mode == "L" else colour).append(data)
                if grey and len(colour) >= 1000:
                    break
    files = [*colour[::20], *grey]
    tokenizer = load("64")
    inputs = inputs_of(tokenizer, *files)
    codes = tokenizer.encode(torch.from_numpy(inputs))
    assert np.array_equal(codes, [expected_codes(data, (64, 64, 64), 2) for data in files])
    rebuilt = tokenizer.decode(codes, **tokenizer.column_values(inputs))
    assert np.array_equal(rebuilt, [by_pillow(data) for data in files])
