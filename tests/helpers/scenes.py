"""Scenes of patches, which a tokenizer need not resize, and the commands that look at their store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from click.testing import CliRunner, Result
from PIL import Image
from tokenstore_cli.main import cli

from tokenstore import sheet as module

SIZE = 64


def run(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def lines(result: Result) -> list[str]:
    assert result.exit_code == 0, result.output
    return result.output.splitlines()


def write_scene(path: Path, seed: int) -> None:
    """Write an image of SIZE pixels a side that no tokenizer has to resize: 16 patches of colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    patches = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    Image.fromarray(patches.repeat(SIZE // 4, 0).repeat(SIZE // 4, 1)).save(path)


def locate(root: dict[str, dict[str, dict[str, object]]], photos: Path) -> None:
    root["attributes"]["tokenstore"]["source_location"] = str(photos)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def place(
    sheet: np.ndarray, number: int, column: int, size: int, columns: int, images: int = 2
) -> np.ndarray:
    """Cut one image out of a sheet of images of one size, by its sample and its place in the row."""
    gap, caption = module.GAP, module.CAPTION_HEIGHT
    scale = -(-module.MIN_WIDTH // size)
    side = scale * size
    top = gap + number // columns * (side + caption + gap)
    left = gap + number % columns * (images * (side + gap) + gap) + column * (side + gap)
    return sheet[top : top + side : scale, left : left + side : scale]
