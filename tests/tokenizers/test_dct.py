"""Codes from JPEG files are the files' own DCT coefficients, and decode to the files' own pixels."""

from __future__ import annotations

import io
import random
import re
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.paths import SHARED
from PIL import Image

import tokenstore
from tokenstore.audit.verify import verify
from tokenstore.conversion.convert import convert_source
from tokenstore.conversion.options import ConvertOptions
from tokenstore.errors import SampleError, TokenizerError
from tokenstore.sources import open_source
from tokenstore.sources.images import ImageOptions, decode_image
from tokenstore.tokenizers import FileTokenizer, load_tokenizer
from tokenstore.tokenizers.quality import psnr

jpeglib = pytest.importorskip("jpeglib", reason="jpeglib is not installed (extra `jpeg`)")
from tokenstore.sources.jpeg_coefficients import ZIGZAG, CoefficientDecoder, PlaneLayout, parse_jpeg  # noqa: E402
from tokenstore.tokenizers.kinds.dct import DctTokenizer, load  # noqa: E402

DATA = SHARED / "data"
PHOTOGRAPHS = DATA / "imagenet-sample.tar"
THUMBNAILS = DATA / "tiny-imagenet-100.tar.gz"
EXIF_ORIENTATION = 0x0112
FINGERPRINT = "708a5b91110ae4f0dab753b625cfe2381f91f83f5c8dee2dd2ec27f06ff8c0a2"

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


def scene(height: int = 64, width: int = 64, seed: int = 0) -> np.ndarray:
    """Smooth colours with some noise, RGB uint8 (H, W, 3)."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8)).resize((width, height))
    noise = rng.integers(-20, 20, (height, width, 3))
    return (np.asarray(small).astype(int) + noise).clip(0, 255).astype(np.uint8)


def saved(pixels: np.ndarray | Image.Image, format: str = "JPEG", **options: object) -> bytes:
    file = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(file, format, **options)
    return file.getvalue()


def written(blocks: list[np.ndarray], tables: np.ndarray, factors: tuple[int, int] | None = None) -> bytes:
    """Write a file that Pillow would not write.

    `blocks` (rows, columns, 64) and `tables` (3, 64) are in zigzag order.
    """

    def by_rows(values: np.ndarray, dtype: type) -> np.ndarray:
        return np.take(values, np.argsort(ZIGZAG), -1).reshape(*values.shape[:-1], 8, 8).astype(dtype)

    jpeg = jpeglib.from_dct(*(by_rows(part, np.int16) for part in blocks), qt=by_rows(tables, np.uint16))
    if factors is not None:
        jpeg.samp_factor = np.array([factors] * 3)
    with tempfile.TemporaryDirectory() as folder:
        jpeg.write_dct(f"{folder}/image.jpeg")
        return Path(folder, "image.jpeg").read_bytes()


def by_pillow(data: bytes) -> np.ndarray:
    """RGB (3, H, W) uint8."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).transpose(2, 0, 1)


# ---- an independent reader: sequential JPEG of one scan, bit by bit as ITU-T T.81 has it


def read_sequential(data: bytes) -> tuple[list[np.ndarray], np.ndarray]:
    """Blocks (rows, columns, 64) of each component, and tables (components, 64), in zigzag order."""
    quantisation: dict[int, list[int]] = {}
    symbols: dict[int, dict[str, int]] = {}
    frame, restart, position = b"", 0, 2
    while True:
        assert data[position] == 0xFF
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4])
        body = data[position + 4 : position + 2 + length]
        position += 2 + length
        if marker == 0xDB:
            while body:
                wide = body[0] >> 4
                values = body[1 : 65 + 64 * wide]
                pairs = zip(values[::2], values[1::2], strict=True)
                quantisation[body[0] & 15] = [256 * a + b for a, b in pairs] if wide else list(values)
                body = body[65 + 64 * wide :]
        elif marker == 0xC4:
            while body:
                count = sum(body[1:17])
                symbols[body[0]] = huffman_symbols(body[1:17], body[17 : 17 + count])
                body = body[17 + count :]
        elif marker in (0xC0, 0xC1):
            frame = body
        elif marker == 0xDD:
            restart = int.from_bytes(body)
        elif marker == 0xDA:
            break
        else:
            assert marker >= 0xE0, f"marker {marker:x} is not one of a sequential file"
    specs = [frame[start : start + 3] for start in range(6, len(frame), 3)]
    assert body[0] == len(specs), "one scan of all components"
    height, width = int.from_bytes(frame[1:3]), int.from_bytes(frame[3:5])
    sides = [(spec[1] & 15, spec[1] >> 4) if len(specs) > 1 else (1, 1) for spec in specs]
    tallest, widest = (max(side) for side in zip(*sides, strict=True))
    mcu_rows, mcu_columns = -(-height // (8 * tallest)), -(-width // (8 * widest))
    planes = [np.zeros((mcu_rows * down, mcu_columns * across, 64), np.int64) for down, across in sides]
    huffman = [(symbols[n >> 4], symbols[16 + (n & 15)]) for n in body[2 : 2 + 2 * len(specs) : 2]]
    mcus = iter(range(mcu_rows * mcu_columns))
    for bits in restart_intervals(data[position:]):
        at, predicted = 0, [0] * len(specs)
        for _, mcu in zip(range(restart or mcu_rows * mcu_columns), mcus, strict=False):
            row, column = divmod(mcu, mcu_columns)
            for component, (down, across) in enumerate(sides):
                for block in range(down * across):
                    y, x = row * down + block // across, column * across + block % across
                    at = read_block(bits, at, *huffman[component], planes[component][y, x])
                    planes[component][y, x, 0] += predicted[component]
                    predicted[component] = planes[component][y, x, 0]
    assert next(mcus, None) is None
    cropped = [
        plane[: -(-height * down // (8 * tallest)), : -(-width * across // (8 * widest))]
        for plane, (down, across) in zip(planes, sides, strict=True)
    ]
    return cropped, np.array([quantisation[spec[2]] for spec in specs])


def huffman_symbols(counts: bytes, values: bytes) -> dict[str, int]:
    """Return the symbol of each code, a string of 0 and 1 (T.81, annex C)."""
    found, code, taken = {}, 0, 0
    for length, count in enumerate(counts, 1):
        for value in values[taken : taken + count]:
            found[f"{code:0{length}b}"] = value
            code += 1
        taken += count
        code <<= 1
    return found


def restart_intervals(scan: bytes) -> Iterator[str]:
    """Entropy-coded data between restart markers as strings of 0 and 1, without stuffed bytes (B.1.1.5)."""
    whole = scan[: re.search(rb"\xff[^\x00\xd0-\xd7]", scan).start()]
    for part in re.split(rb"\xff[\xd0-\xd7]", whole):
        bytes_ = part.replace(b"\xff\x00", b"\xff")
        yield f"{int.from_bytes(bytes_):0{8 * len(bytes_)}b}"


def read_block(bits: str, at: int, dc: dict[str, int], ac: dict[str, int], block: np.ndarray) -> int:
    """Fill a block (64,), its DC as a difference, and return where the next one begins (F.2.2)."""
    k, symbols = 0, dc
    while k < 64:
        length = 1
        while bits[at : at + length] not in symbols:
            length += 1
            assert length <= 16
        symbol = symbols[bits[at : at + length]]
        at += length
        run, size = symbol >> 4, symbol & 15
        if size == 0 and k and run != 15:
            break
        k += run
        if size:
            value = int(bits[at : at + size], 2)
            block[k] = value if bits[at] == "1" else value - (1 << size) + 1
            at += size
        k, symbols = k + 1, ac
    return at


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


def inputs_of(tokenizer: DctTokenizer, *files: bytes, size: int | tuple[int, int] = 64) -> np.ndarray:
    decoder = tokenizer.decoder(ImageOptions(size))
    inputs = np.full((len(files), *decoder.shape), 77, decoder.dtype)
    for data, out in zip(files, inputs, strict=True):
        decoder.decode(data, out)
    return inputs


def codes_of(tokenizer: DctTokenizer, *files: bytes, size: int | tuple[int, int] = 64) -> torch.Tensor:
    return tokenizer.encode(torch.from_numpy(inputs_of(tokenizer, *files, size=size)))


def expected_codes(data: bytes, kept: tuple[int, int, int], luma_side: int) -> np.ndarray:
    """Return codes (n, h, w) of the independent reader's coefficients, put in their planes one by one."""
    blocks, _ = read_sequential(data)
    rows, columns = (side // luma_side for side in blocks[0].shape[:2])
    codes = np.full((luma_side**2 * kept[0] + kept[1] + kept[2], rows, columns), 1024)
    for row, column in np.ndindex(rows, columns):
        mcu = [
            blocks[0][luma_side * row + down, luma_side * column + across, : kept[0]]
            for down in range(luma_side)
            for across in range(luma_side)
        ]
        mcu += [blocks[c][row, column, : kept[c]] for c in (1, 2) if len(blocks) > 1]
        values = np.concatenate(mcu)
        codes[: len(values), row, column] = 1024 + values
    return codes


# ---- coefficients


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


# ---- codes


@pytest.mark.parametrize(
    ("argument", "kept", "luma_side"),
    [
        (None, (15, 6, 6), 2),
        ("64", (64, 64, 64), 2),
        ("y=1,cb=2,cr=3", (1, 2, 3), 2),
        ("y=7,cb=0,cr=4,sampling=444", (7, 0, 4), 1),
        ("9,sampling=444", (9, 9, 9), 1),
    ],
)
def test_codes_are_the_first_coefficients_of_each_block_in_planes_of_their_own(
    argument: str | None, kept: tuple[int, int, int], luma_side: int
) -> None:
    tokenizer = load(argument)
    subsampling = "4:2:0" if luma_side == 2 else "4:4:4"
    colour = saved(scene(48, 80), quality=70, subsampling=subsampling)
    grey = saved(scene(48, 80)[..., 1], quality=90)
    codes = codes_of(tokenizer, colour, grey, size=(48, 80))
    planes = luma_side**2 * kept[0] + kept[1] + kept[2]
    stride = 8 * luma_side
    assert tokenizer.codebook_sizes == (2048,) * planes
    assert codes.shape[1:] == (planes, 48 // stride, 80 // stride) == tokenizer.grid((3, 48, 80))
    assert codes.dtype == torch.int64
    assert np.array_equal(codes[0], expected_codes(colour, kept, luma_side))
    assert np.array_equal(codes[1], expected_codes(grey, kept, luma_side))


def test_a_single_plane_has_no_axis_of_its_own() -> None:
    tokenizer = load("y=1,cb=0,cr=0,sampling=444")
    data = saved(scene(), subsampling="4:4:4")
    codes = codes_of(tokenizer, data)
    assert codes.shape == (1, 8, 8) == (1, *tokenizer.grid((3, 64, 64)))
    assert np.array_equal(codes[0], read_sequential(data)[0][0][..., 0] + 1024)
    images = torch.from_numpy(scene().transpose(2, 0, 1).copy())[None]
    assert tokenizer.encode(images).shape == (1, 8, 8)
    assert tokenizer.decode(codes).shape == (1, 3, 64, 64)


@pytest.mark.parametrize("sampling", ["420", "444"])
@pytest.mark.parametrize("quality", [50, 80, 95, 100])
def test_all_coefficients_decode_to_the_files_own_pixels(quality: int, sampling: str) -> None:
    tokenizer = load(f"64,sampling={sampling}")
    pixels = scene(48, 80, seed=quality)
    options = {"quality": quality, "subsampling": ":".join(sampling)}
    files = [
        saved(pixels, **options),
        saved(pixels, progressive=True, **options),
        saved(pixels[..., 0], quality=quality),
        saved(pixels, qtables=[list(range(1, 65)), list(range(64, 0, -1))], subsampling=":".join(sampling)),
    ]
    inputs = inputs_of(tokenizer, *files, size=(48, 80))
    rebuilt = tokenizer.decode(tokenizer.encode(torch.from_numpy(inputs)), **tokenizer.column_values(inputs))
    assert rebuilt.dtype == torch.uint8
    assert np.array_equal(rebuilt, [by_pillow(data) for data in files])


def test_coefficients_that_were_not_kept_decode_as_zeros() -> None:
    whole, part = load("64"), load("y=10,cb=3,cr=2")
    data = saved(scene(), subsampling="4:2:0")
    codes, inputs = codes_of(whole, data), inputs_of(part, data)
    cut = codes.clone()
    cut[:, :256].unflatten(1, (4, 64))[:, :, 10:] = 1024
    cut[:, 256 + 3 : 320] = 1024
    cut[:, 320 + 2 :] = 1024
    tables = part.column_values(inputs)["quantization"]
    assert torch.equal(part.decode(codes_of(part, data), tables), whole.decode(cut, tables))
    assert not torch.equal(whole.decode(cut, tables), whole.decode(codes, tables))


def test_the_column_holds_each_files_own_tables() -> None:
    tokenizer = load("3")
    assert isinstance(tokenizer, FileTokenizer)
    files = [saved(scene(), quality=quality) for quality in (30, 60, 90)] + [saved(scene()[..., 0])]
    inputs = inputs_of(tokenizer, *files)
    found = tokenizer.column_values(inputs)["quantization"]
    column = tokenizer.columns["quantization"]
    assert (found.dtype, found.shape[1:]) == (column.dtype, column.shape)
    for tables, data in zip(found[:3], files, strict=False):
        luma, blue, red = read_sequential(data)[1]
        assert np.array_equal(tables, [luma, blue, red])
    assert np.array_equal(found[3], [read_sequential(files[3])[1][0], np.ones(64), np.ones(64)])
    assert tokenizer.column_values(inputs[:0])["quantization"].shape == (0, 3, 64)


def test_grids_too_small_to_hold_the_tables_in_one_plane_hold_them_in_several() -> None:
    tokenizer = load("2")
    for size in ((16, 16), (16, 48), (256, 256)):
        data = saved(scene(*size), quality=44)
        inputs = inputs_of(tokenizer, data, size=size)
        tables = tokenizer.column_values(inputs)["quantization"][0]
        assert np.array_equal(tables, read_sequential(data)[1])


# ---- images that are not such files


def oriented(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    return saved(scene(), quality=91, exif=exif)


def test_what_stands_around_the_coefficients_does_not_matter() -> None:
    tokenizer = load("64")
    plain = saved(scene(), quality=91)
    expected = codes_of(tokenizer, plain)
    assert np.array_equal(expected[0], expected_codes(plain, (64, 64, 64), 2))
    described = saved(scene(), quality=91, comment=b"\xff\xd9" * 9, icc_profile=bytes(70_000), xmp=b"<x/>")
    stuffed = plain.replace(b"\xff\xdb", b"\xff\xff\xff\xdb").replace(b"\xff\xda", b"\xff\xff\xda")
    for data in (described, oriented(1), plain + b"\xff\xd8 and more", stuffed):
        assert np.array_equal(codes_of(tokenizer, data), expected)


def test_equal_sampling_factors_of_any_size_are_no_subsampling() -> None:
    blocks, tables = read_sequential(saved(scene(), subsampling="4:4:4"))
    codes = codes_of(load("64,sampling=444"), written(blocks, tables, factors=(2, 1)))
    assert np.array_equal(codes[0] - 1024, np.concatenate([part.transpose(2, 0, 1) for part in blocks]))


@pytest.mark.parametrize(
    "data",
    [
        saved(scene(), "PNG"),
        saved(scene(), "WEBP"),
        saved(scene(80, 64), quality=90),
        saved(scene(), subsampling="4:4:4", quality=90),
        saved(scene(), subsampling="4:2:2", quality=90),
        saved(scene(), keep_rgb=True),
        saved(Image.fromarray(scene()).convert("CMYK")),
        *(oriented(orientation) for orientation in range(2, 9)),
    ],
    ids=["png", "webp", "size", "444", "422", "rgb", "cmyk", *(f"orientation-{n}" for n in range(2, 9))],
)
def test_any_other_image_is_saved_as_jpeg_first(data: bytes) -> None:
    tokenizer = load("64,quality=83")
    image = decode_image(data, ImageOptions(64))
    as_jpeg = saved(image.pixels, quality=83, subsampling="4:2:0")
    inputs = inputs_of(tokenizer, data)
    codes = tokenizer.encode(torch.from_numpy(inputs))
    assert np.array_equal(codes[0], expected_codes(as_jpeg, (64, 64, 64), 2))
    assert np.array_equal(tokenizer.column_values(inputs)["quantization"][0], read_sequential(as_jpeg)[1])
    out = np.empty(inputs.shape[1:], inputs.dtype)
    assert tokenizer.decoder(ImageOptions(64)).decode(data, out) == (image.width, image.height)


def test_a_subsampled_file_is_saved_again_where_no_subsampling_is_wanted() -> None:
    data = saved(scene(), subsampling="4:2:0", quality=90)
    pixels = np.ascontiguousarray(by_pillow(data).transpose(1, 2, 0))
    as_jpeg = saved(pixels, quality=75, subsampling="4:4:4")
    assert np.array_equal(
        codes_of(load("64,sampling=444"), data)[0], expected_codes(as_jpeg, (64, 64, 64), 1)
    )


def test_images_are_encoded_as_their_files_are() -> None:
    tokenizer = load("12,quality=60")
    pixels = [scene(64, 96, seed) for seed in range(5)]
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
    from_files = codes_of(tokenizer, *(saved(each, "PNG") for each in pixels), size=(64, 96))
    assert torch.equal(tokenizer.encode(images), from_files)
    assert torch.equal(tokenizer.encode(images.contiguous()), from_files)


def test_images_come_back_within_the_error_of_jpeg() -> None:
    """Without tables, decoding takes those of the tokenizer's quality, which are the images' own."""
    grey = [scene(seed=seed)[..., :1].repeat(3, axis=2) for seed in range(3)]
    images = torch.from_numpy(np.stack(grey)).permute(0, 3, 1, 2)
    for quality in (40, 75, 92):
        tokenizer = load(f"64,quality={quality}")
        files = [saved(image.permute(1, 2, 0).numpy(), quality=quality) for image in images]
        rebuilt = tokenizer.decode(tokenizer.encode(images))
        assert np.array_equal(rebuilt, [by_pillow(data) for data in files])
    assert psnr(images, rebuilt).min() > 35


# ---- batches


def test_codes_and_images_do_not_depend_on_batch_order_or_threads() -> None:
    tokenizer = load("20")
    tokenizer._threads = 4
    files = [saved(scene(seed=seed), quality=50 + seed) for seed in range(12)]
    images = torch.from_numpy(np.stack([scene(seed=seed) for seed in range(12)])).permute(0, 3, 1, 2)
    inputs = inputs_of(tokenizer, *files)
    tables = tokenizer.column_values(inputs)["quantization"]
    codes, of_images = tokenizer.encode(torch.from_numpy(inputs)), tokenizer.encode(images)
    rebuilt, with_own_tables = tokenizer.decode(codes, tables), tokenizer.decode(codes)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    for part in torch.split(order, 5):
        assert torch.equal(tokenizer.encode(torch.from_numpy(inputs)[part]), codes[part])
        assert torch.equal(tokenizer.encode(images[part]), of_images[part])
        assert torch.equal(tokenizer.decode(codes[part], torch.from_numpy(tables)[part]), rebuilt[part])
        assert torch.equal(tokenizer.decode(codes[part].short()), with_own_tables[part])


def test_empty_batches_stay_empty() -> None:
    tokenizer = load("3")
    no_files = torch.zeros((0, *tokenizer.decoder(ImageOptions(32)).shape), dtype=torch.int32)
    no_images = torch.zeros((0, 3, 32, 32), dtype=torch.uint8)
    for inputs in (no_files, no_images):
        codes = tokenizer.encode(inputs)
        assert codes.shape == (0, 18, 2, 2)
        assert codes.dtype == torch.int64
        for tables in (None, np.zeros((0, 3, 64), np.uint16)):
            assert tokenizer.decode(codes, tables).shape == (0, 3, 32, 32)


# ---- options


def test_the_tokenizer_says_what_it_is() -> None:
    tokenizer = load_tokenizer("dct")
    assert (tokenizer.name, tokenizer.codebook, tokenizer.dtype) == ("dct", None, None)
    assert tokenizer.codebook_sizes == (2048,) * 72
    assert tokenizer.grid((3, 256, 256)) == (72, 16, 16)
    assert (tokenizer.image_size, tokenizer.device) == (256, torch.device("cpu"))
    assert load_tokenizer("dct:size=64").image_size == 64
    assert tokenizer.to("cuda").device == torch.device("cpu")


def test_the_fingerprint_is_of_all_that_decides_codes() -> None:
    """Stores hold this number: it may only change together with what the codes mean."""
    assert load(None).fingerprint == FINGERPRINT
    assert load("y=15,quality=75,size=64").fingerprint == FINGERPRINT
    options = [None, "y=14", "cb=5", "cr=5", "quality=76", "sampling=444", "15"]
    assert len({load(argument).fingerprint for argument in options}) == len(options)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("z=3", "an option of y, cb, cr, quality, sampling, size; found 'z=3' in 'z=3'"),
        ("y=3,", "found '' in 'y=3,'"),
        ("y=", "found 'y='"),
        ("y=-1", "found 'y=-1'"),
        ("y=1.5", "found 'y=1.5'"),
        ("y=٣", "found 'y=٣'"),
        ("fast", "found 'fast'"),
        ("y=3,y=4", "each option once, found 'y=4' again"),
        ("y=3,20", "each option once, found '20' again"),
        ("y=0", r"y to be in 1\.\.64, found 0"),
        ("65", r"y to be in 1\.\.64, found 65"),
        ("cb=65", r"cb to be in 0\.\.64, found 65"),
        ("quality=0", r"quality to be in 1\.\.100, found 0"),
        ("quality=101", r"quality to be in 1\.\.100, found 101"),
        ("sampling=422", "sampling to be 420 or 444, found 422"),
        ("size=40", "size to be a multiple of 16, found 40"),
        ("size=0", r"size to be in 1\.\.65500, found 0"),
        ("size=70000", r"size to be in 1\.\.65500, found 70000"),
    ],
)
def test_wrong_options_are_refused(argument: str, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(f"dct:{argument}")


# ---- inputs that do not fit


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.zeros((1, 3, 60, 64), dtype=torch.uint8), r"multiples of 16, found \(60, 64\)"),
        (torch.zeros((1, 64, 64, 3), dtype=torch.uint8), r"\(3, H, W\), found shape \(64, 64, 3\)"),
        (torch.zeros((1, 84, 4, 4)), r"images \(B, 3, H, W\) uint8, found .* torch.float32"),
        (
            torch.zeros((1, 83, 4, 4), dtype=torch.int32),
            r"72 planes and those of the tables.*\(1, 83, 4, 4\)",
        ),
        (torch.zeros((1, 84, 0, 4), dtype=torch.int32), r"found \(1, 84, 0, 4\)"),
        (torch.zeros((84, 4, 4), dtype=torch.int32), r"found \(84, 4, 4\)"),
    ],
)
def test_inputs_of_a_wrong_shape_or_dtype_are_refused(inputs: torch.Tensor, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        load(None).encode(inputs)


@pytest.mark.parametrize(
    ("shape", "code", "tables", "message"),
    [
        ((2, 71, 4, 4), 0, None, r"\(B, 72, H, W\) of an integer dtype"),
        ((2, 72, 4, 4), 2048, None, r"0\.\.2047, found 2048\.\.2048"),
        ((1, 72, 1, 5000), 0, None, r"sides up to 65500, found \(16, 80000\)"),
        ((2, 72, 4, 4), 0, np.ones((1, 3, 64), np.uint16), r"\(2, 3, 64\) of an integer dtype, found \(1, 3"),
        ((2, 72, 4, 4), 0, np.ones((2, 3, 64)), "found .* float64"),
        ((2, 72, 4, 4), 0, np.full((2, 3, 64), -1), r"0\.\.65535, found -1\.\.-1"),
        ((2, 72, 4, 4), 0, np.full((2, 3, 64), 65536), "found 65536"),
    ],
)
def test_codes_and_tables_that_do_not_fit_are_refused(
    shape: tuple[int, ...], code: int, tables: np.ndarray | None, message: str
) -> None:
    with pytest.raises(TokenizerError, match=message):
        load(None).decode(torch.full(shape, code), tables)


def test_any_codes_decode_to_an_image() -> None:
    """JPEG has no AC coefficient of -1024: code 0 stands for the next one there."""
    tokenizer = load("64")
    shape = (1, 384, 2, 3)
    codes = torch.randint(0, 2048, shape, generator=torch.Generator().manual_seed(0))
    largest = np.full((1, 3, 64), 65535, np.uint16)
    for extreme in (codes, torch.zeros(shape, dtype=torch.int64), torch.full(shape, 2047)):
        for tables in (None, largest, np.zeros((1, 3, 64), np.uint16)):
            assert tokenizer.decode(extreme, tables).shape == (1, 3, 32, 48)
    lowest = torch.zeros(shape, dtype=torch.int64)
    lowest.unflatten(1, (6, 64))[:, :, 1:] = 1
    assert torch.equal(tokenizer.decode(torch.zeros(shape, dtype=torch.int64)), tokenizer.decode(lowest))


# ---- hostile files


def test_a_file_without_huffman_codes_of_its_own_is_saved_again() -> None:
    """Pillow supplies the usual ones, as for frames of motion JPEG; not every libjpeg does."""
    whole = saved(scene(), quality=75)
    data = whole[: whole.index(b"\xff\xc4")] + whole[whole.index(b"\xff\xda") :]
    pixels = decode_image(data, ImageOptions(64)).pixels
    expected = codes_of(load("64"), saved(pixels, quality=75))
    assert torch.equal(codes_of(load("64"), data), expected)


def test_coefficients_out_of_range_are_a_reason_to_skip_the_file() -> None:
    tokenizer = load("64")
    luma, colour = np.zeros((2, 2, 64)), np.zeros((1, 1, 64))
    for value in (-1024, 1023, -1025, 1024):
        luma[0, 0, 0] = value
        data = written([luma, colour, colour], np.ones((3, 64)))
        if value in (-1024, 1023):
            assert codes_of(tokenizer, data, size=16)[0, 0, 0, 0] == value + 1024
        else:
            with pytest.raises(SampleError, match=f"-1024 to 1023, found .*{value}"):
                codes_of(tokenizer, data, size=16)


def hostile_files() -> Iterator[tuple[str, bytes]]:
    generator = random.Random(0)
    pixels = scene(32, 32)
    files = {
        "420": saved(pixels, quality=90),
        "progressive": saved(pixels, quality=90, progressive=True),
        "grey": saved(pixels[..., 0], restart_marker_blocks=3),
    }
    for kind, data in files.items():
        for length in range(0, len(data) - 2, len(data) // 60):
            yield f"{kind} cut at {length}", data[:length]
        for number in range(150):
            flipped = bytearray(data)
            place = generator.randrange(len(data) if number % 2 else data.index(b"\xff\xda") + 14)
            flipped[place] = generator.randrange(256)
            yield f"{kind} flipped at {place}", bytes(flipped)
    yield from malformed_files(files["420"])


def malformed_files(data: bytes) -> Iterator[tuple[str, bytes]]:
    table, frame, codes, scan = (data.index(bytes((0xFF, marker))) for marker in (0xDB, 0xC0, 0xC4, 0xDA))
    yield "no Huffman codes", data[:codes] + data[scan:]
    yield "tables of 24 bits", data[: table + 4] + b"\x20" + data[table + 5 :]
    yield "two frames", data[:codes] + data[frame:codes] + data[codes:]
    yield "no tables", data[:table] + data[frame:]
    yield "tables between scans", data[:-2] + data[table:frame] + data[scan:]
    yield "no scan", data[:scan] + b"\xff\xd9"
    yield "no end", data[:-2]
    yield "a length of 0", data[: table + 2] + b"\x00\x00" + data[table + 4 :]
    yield "a length of 1", data[: scan + 2] + b"\x00\x01" + data[scan + 4 :]
    yield "12 bits", data[: frame + 4] + b"\x0c" + data[frame + 5 :]
    yield "no height", data[: frame + 5] + b"\x00\x00" + data[frame + 7 :]
    yield "no sampling factor", data[: frame + 11] + b"\x20" + data[frame + 12 :]
    ten = b"\x00\x26" + data[frame + 4 : frame + 9] + b"\x0a" + bytes(30)
    yield "ten components", data[: frame + 2] + ten + data[codes:]
    yield "lossless", data[:frame] + b"\xff\xc3" + data[frame + 2 :]
    yield "arithmetic codes", data[:frame] + b"\xff\xc9" + data[frame + 2 :]


def test_libjpeg_never_sees_a_malformed_file() -> None:
    data = saved(scene(32, 32), quality=90)
    assert parse_jpeg(data) is not None
    for name, malformed in malformed_files(data):
        assert parse_jpeg(malformed) is None, name
    for other in (b"", b"\xff", b"\xff\xd8", b"\xff\xd8\xff", saved(scene(), "PNG")):
        assert parse_jpeg(other) is None


def test_hostile_files_give_a_reason_or_codes_and_leave_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    decoder = CoefficientDecoder(ImageOptions(32), PlaneLayout(64, 64, 64, "420"), 75)
    out = np.empty(decoder.shape, decoder.dtype)
    refused = []
    for name, data in hostile_files():
        try:
            decoder.decode(data, out)
        except SampleError as error:
            refused.append((name, str(error)))
        else:
            assert "cut" not in name
            assert -1024 <= out[:384].min() <= out[:384].max() <= 1023
    assert len(refused) > 200
    assert all(reason for _, reason in refused)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr().out == ""


# ---- conversion


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_folder_of_files_becomes_a_store_of_their_coefficients_and_tables(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    files = {f"{seed}.jpg": saved(scene(seed=seed), quality=60 + 5 * seed) for seed in range(8)}
    files["8.png"] = saved(scene(seed=8), "PNG")
    for name, data in (files | {"9.jpg": files["0.jpg"][:-900]}).items():
        (images / name).write_bytes(data)
    spec = "dct:y=20,cb=5,cr=5,quality=80"
    tokenizer = load_tokenizer(spec)
    for workers in (0, 1):
        options = ConvertOptions(
            image_size=64, workers=workers, on_error="skip", batch_size=4, chunk_samples=4
        )
        out = tmp_path / f"out-{workers}"
        conversion = convert_source(
            open_source(images), out, tokenizer=tokenizer, tokenizer_spec=spec, options=options
        )
        assert [skip.source for skip in conversion.skipped["train"]] == ["9.jpg"]
        assert verify(str(out)).problems == []
    assert contents(tmp_path / "out-0") == contents(tmp_path / "out-1")
    reader = tokenstore.open(tmp_path / "out-0")["train"]
    files["8.png"] = saved(scene(seed=8), quality=80)
    names = reader.samples_table()["source"].to_pylist()
    assert sorted(names) == sorted(files)
    codes, tables = reader[:], reader.read("quantization", range(9))
    assert np.array_equal(codes, [expected_codes(files[name], (20, 5, 5), 2) for name in names])
    assert tables.dtype == np.uint16
    assert np.array_equal(tables, [read_sequential(files[name])[1] for name in names])
    manifest = reader.store.manifest
    assert manifest.tokenizer.fingerprint == tokenizer.fingerprint
    assert (manifest.tokenizer.device, manifest.tokenizer.dtype) == (None, None)
    rebuilt = load_tokenizer(manifest.tokenizer.spec).decode(torch.from_numpy(codes.astype(np.int64)), tables)
    assert psnr(torch.from_numpy(np.stack([by_pillow(files[name]) for name in names])), rebuilt).min() > 20
