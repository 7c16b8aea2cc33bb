"""JPEG files of scenes, and an independent reader of them, bit by bit as ITU-T T.81 has it."""

from __future__ import annotations

import io
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tokenstore.sources.images import ImageOptions

jpeglib = pytest.importorskip("jpeglib", reason="jpeglib is not installed (extra `jpeg`)")
from tokenstore.sources.jpeg_coefficients import ZIGZAG  # noqa: E402
from tokenstore.tokenizers.kinds.dct import DctTokenizer  # noqa: E402


def scene(height: int = 64, width: int = 64, seed: int = 0) -> np.ndarray:
    """Draw smooth colours with some noise, RGB uint8 (H, W, 3)."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8)).resize((width, height))
    noise = rng.integers(-20, 20, (height, width, 3))
    return (np.asarray(small).astype(int) + noise).clip(0, 255).astype(np.uint8)


def saved(pixels: np.ndarray | Image.Image, format: str = "JPEG", **options: object) -> bytes:
    """Return an image file as Pillow writes it."""
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
    """Return Pillow's RGB (3, H, W) uint8."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).transpose(2, 0, 1)


def read_sequential(data: bytes) -> tuple[list[np.ndarray], np.ndarray]:
    """Return blocks (rows, columns, 64) of each component, and tables (components, 64), in zigzag order."""
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
    """Yield the entropy-coded data between restart markers, as 0 and 1, without stuffed bytes (B.1.1.5)."""
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


def inputs_of(tokenizer: DctTokenizer, *files: bytes, size: int | tuple[int, int] = 64) -> np.ndarray:
    """Return the tokenizer's inputs for files."""
    decoder = tokenizer.decoder(ImageOptions(size))
    inputs = np.full((len(files), *decoder.shape), 77, decoder.dtype)
    for data, out in zip(files, inputs, strict=True):
        decoder.decode(data, out)
    return inputs


def codes_of(tokenizer: DctTokenizer, *files: bytes, size: int | tuple[int, int] = 64) -> torch.Tensor:
    """Return the codes of files."""
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
