"""Images and their label maps, the maps as they are stored, and conversions of both."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from click.testing import CliRunner, Result
from PIL import Image
from tokenstore_cli.main import cli

import tokenstore
from helpers.brightness import BrightnessTokenizer
from helpers.grey_conversions import OPTIONS
from tokenstore.conversion.convert import convert_source
from tokenstore.format.manifest import Manifest
from tokenstore.sources import open_source
from tokenstore.sources.images import Resize

WIDTH, HEIGHT = 30, 21
IGNORED = 200


def run(*words: object) -> Result:
    """Run a command of the command line."""
    return CliRunner().invoke(cli, [str(word) for word in words])


def random_map(seed: int, width: int = WIDTH, height: int = HEIGHT) -> npt.NDArray[np.uint8]:
    """Draw a label map of 12 classes, uint8 (H, W)."""
    return np.random.default_rng(seed).integers(0, 12, (height, width), np.uint8)


def write_map(path: Path, values: npt.NDArray[Any], mode: str = "L") -> None:
    """Write a label map as a grey image, or as one with a palette."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    if mode == "P":
        image.putpalette(bytes(range(255, -1, -1)) * 3)
    image.save(path)


def write_pairs(images: Path, masks: Path, paths: Sequence[str]) -> dict[str, npt.NDArray[np.uint8]]:
    """Write images at `paths` (without endings) and their maps; return the maps."""
    maps = {path: random_map(seed) for seed, path in enumerate(paths)}
    for seed, (path, values) in enumerate(maps.items()):
        (images / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT), (seed, seed, seed)).save(images / f"{path}.bmp")
        write_map(masks / f"{path}.png", values, "LP"[seed % 2])
    return maps


def nearest(
    values: npt.NDArray[np.uint8], size: int, resize: Resize = "squash", image_size: int = 16
) -> npt.NDArray[np.uint8]:
    """Return the stored values of a label map, computed pixel by pixel in fractions."""
    height, width = values.shape
    out = np.full((size, size), IGNORED, np.uint8)
    for row in range(size):
        for column in range(size):
            place = []
            for at, length, other in ((row, height, width), (column, width, height)):
                pixel = Fraction(2 * at + 1, 2 * size) * image_size
                start, extent, first, span = 0, image_size, Fraction(0), Fraction(length)
                if resize == "crop":
                    span = Fraction(min(length, other))
                    first = (length - span) / 2
                elif resize == "pad":
                    extent = max(1, round(length * (image_size / max(length, other))))
                    start = (image_size - extent) // 2
                inside = start <= pixel < start + extent
                place.append(math.floor(first + (pixel - start) * span / extent) if inside else None)
            if None not in place:
                out[row, column] = values[place[0], place[1]]
    return out


def stored(path: Path, split: str = "train") -> dict[str, npt.NDArray[np.uint8]]:
    """Return the label map of each sample of a split by the name of its source file, without ending."""
    reader = tokenstore.open(path)[split]
    names = [name.rpartition(".")[0] for name in reader.samples_table()["source"].to_pylist()]
    return dict(zip(names, reader.read("masks", np.arange(len(reader))), strict=True))


def converted(images: Path, masks: str | Path, out: Path, **options: Any) -> Manifest:
    """Convert images with their label maps, and return the manifest."""
    chosen = replace(OPTIONS, ignore_index=IGNORED, **options)
    source = open_source(images, masks=masks)
    return convert_source(source, out, tokenizer=BrightnessTokenizer(), options=chosen).manifest


def same(found: dict[str, npt.NDArray[np.uint8]], expected: dict[str, npt.NDArray[np.uint8]]) -> bool:
    """Return if two sets of label maps are equal."""
    assert found.keys() == expected.keys()
    return all((found[name] == expected[name]).all() for name in expected)


def png(values: npt.NDArray[Any], mode: str | None = None) -> bytes:
    """Return a PNG file of values."""
    file, image = io.BytesIO(), Image.fromarray(values)
    (image.convert(mode) if mode else image).save(file, "PNG")
    return file.getvalue()


RGB = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
