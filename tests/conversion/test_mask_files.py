"""Files of label maps: their depths and modes, and bad ones, which are reported and not stored."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
from helpers.brightness import BrightnessTokenizer
from helpers.grey_conversions import OPTIONS
from helpers.label_maps import (
    HEIGHT,
    IGNORED,
    RGB,
    WIDTH,
    converted,
    nearest,
    png,
    random_map,
    same,
    stored,
    write_map,
)
from PIL import Image

import tokenstore
from tokenstore.audit.verify import verify
from tokenstore.conversion.convert import convert_source
from tokenstore.errors import ConversionError, IncompleteStoreError, SampleError
from tokenstore.sources import open_source
from tokenstore.sources.masks import load_mask


def small_depth_png(values: npt.NDArray[np.uint8], bits: int) -> bytes:
    """Write a grey PNG file of 1, 2 or 4 bits a pixel, byte by byte; a row must fill whole bytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = values.shape
    single = np.unpackbits(values[..., None], axis=-1)[..., -bits:].reshape(height, -1)
    rows = np.packbits(single, axis=1)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_values_of_few_bits_are_the_indices_that_the_file_has(bits: int) -> None:
    values = random_map(1, 16, 9) % 2**bits
    assert (load_mask(small_depth_png(values, bits)) == values).all()
    palette, file = Image.fromarray(values), io.BytesIO()
    palette.putpalette(bytes(range(255, -1, -1)) * 3)
    palette.save(file, "PNG", bits=bits)
    assert (load_mask(file.getvalue()) == values).all()


def test_sixteen_bits_are_read_where_all_values_fit() -> None:
    values = random_map(2).astype(np.uint16)
    values[0, 0] = 255
    assert (load_mask(png(values)) == values).all()
    values[0, 0] = 256
    with pytest.raises(SampleError, match="class indices up to 255, found 256; number the classes anew"):
        load_mask(png(values))


BAD = {
    "RGB": (png(RGB), "one channel of class indices, palette or grey, found RGB; convert its colours to ind"),
    "RGBA": (png(RGB, "RGBA"), "one channel of class indices, palette or grey, found RGBA"),
    "LA": (png(RGB, "LA"), "one channel of class indices, palette or grey, found LA"),
    "small": (png(random_map(0, 15, 10)), "expected its image's size, 30 x 21, found 15 x 10"),
    "turned": (png(random_map(0, HEIGHT, WIDTH)), "expected its image's size, 30 x 21, found 21 x 30"),
    "large": (png(np.full((HEIGHT, WIDTH), 999, np.uint16)), "class indices up to 255, found 999"),
    "truncated": (png(random_map(0))[:-100], "cannot be decoded: "),
    "empty": (b"", "expected a PNG file, found an empty one"),
    "text": (b"not an image", "expected a PNG file, found one that begins with b'not an image'"),
    "missing": (None, "is missing; add it, or remove the image"),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_map_counts_as_a_bad_image_does(
    tmp_path: Path, pairs: dict[str, npt.NDArray[np.uint8]], bad: str
) -> None:
    data, message = BAD[bad]
    path = tmp_path / "masks" / "04.png"
    path.unlink()
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ConversionError, match=r"1 samples cannot be read.*on_error='skip'") as caught:
        converted(tmp_path / "images", tmp_path / "masks", tmp_path / "out")
    assert caught.value.skipped[0][0] == "04.bmp"
    assert caught.value.skipped[0][1].startswith(f"label map {path}: ")
    assert message in caught.value.skipped[0][1]
    with pytest.raises(IncompleteStoreError):
        tokenstore.open(tmp_path / "out")
    write_map(path, pairs["04"])
    source = open_source(tmp_path / "images", masks=tmp_path / "masks")
    options = replace(OPTIONS, ignore_index=IGNORED)
    convert_source(source, tmp_path / "out", tokenizer=BrightnessTokenizer(), options=options, resume=True)
    assert same(stored(tmp_path / "out"), {name: nearest(values, 16) for name, values in pairs.items()})


def test_bad_maps_are_skipped_with_their_images_and_reported(
    tmp_path: Path, pairs: dict[str, npt.NDArray[np.uint8]]
) -> None:
    (tmp_path / "masks" / "00.png").unlink()
    (tmp_path / "masks" / "05.png").write_bytes(png(RGB))
    (tmp_path / "images" / "06.bmp").write_bytes(b"")
    (tmp_path / "masks" / "06.png").write_bytes(b"")
    converted(tmp_path / "images", tmp_path / "masks", tmp_path / "out", on_error="skip")
    kept = {name: nearest(v, 16) for name, v in pairs.items() if name not in ("00", "05", "06")}
    assert same(stored(tmp_path / "out"), kept)
    report = pq.read_table(tmp_path / "out" / "train" / "skipped.parquet").to_pylist()
    assert [row["source"] for row in report] == ["00.bmp", "05.bmp", "06.bmp"]
    assert [row["reason"].partition(" ")[0] for row in report] == ["label", "label", "the"]
    assert verify(str(tmp_path / "out")).problems == []


def test_a_png_cut_anywhere_is_refused_or_whole() -> None:
    values = random_map(4)
    data = png(values)
    refused = 0
    for end in range(len(data)):
        try:
            assert (load_mask(data[:end]) == values).all()
        except SampleError:
            refused += 1
    assert refused > 0.9 * len(data)
