"""The DCT tokenizer's options, and inputs, codes and files that do not fit or are hostile."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.jpeg_files import codes_of, saved, scene, written

from tokenstore.errors import SampleError, TokenizerError
from tokenstore.sources.images import ImageOptions, decode_image
from tokenstore.sources.jpeg_coefficients import CoefficientDecoder, PlaneLayout, parse_jpeg
from tokenstore.tokenizers.kinds.dct import load

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
