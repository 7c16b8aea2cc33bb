"""Stores of every kind of tokens, whose classes can be seen: several codebooks, digits, lists, numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import tokenstore
from helpers.network_stores import CLASSES
from helpers.stores import write_store
from tokenstore.format import ImplicitCodebook, TokenizerIdentity

SIDE, SAMPLES, HELD_OUT = 6, 96, 24
RESIDUAL = (
    np.random.default_rng(8).standard_normal((3, 12, 8)).astype(np.float32)
    * np.array([1, 0.4, 0.1], np.float32)[:, None, None]
)
TABLE = np.random.default_rng(9).standard_normal((32, 5)).astype(np.float32)
LEVELS = (5, 4, 3)
DCT = "dct:y=3,cb=1,cr=1,quality=75"


def _splits(draw: Callable[[np.random.Generator, Any], Any]) -> dict[str, Any]:
    """Return splits train and val of codes that `draw` makes of a generator and labels, and label maps."""
    rng = np.random.default_rng(3)
    splits = {}
    for name, count in (("train", SAMPLES), ("val", HELD_OUT)):
        labels = (np.arange(count) % CLASSES).astype(np.int32)
        masks = np.broadcast_to(labels[:, None, None], (count, 2 * SIDE, 2 * SIDE)).astype(np.uint8)
        splits[name] = (draw(rng, labels), labels, {"masks": masks})
    return splits


def _residual(rng: np.random.Generator, labels: Any) -> Any:
    codes = rng.integers(0, 12, (len(labels), 3, SIDE, SIDE)).astype(np.uint8)
    codes[:, 0, :, :3] = labels[:, None, None]
    return codes


def write_residual(path: Path, **spec: Any) -> Path:
    """Write grids of three codes a position, of residual codebooks; the class is in the first."""
    write_store(
        path, _splits(_residual), (12, 12, 12), class_names=tuple("abcd"), **{"codebook": RESIDUAL} | spec
    )
    return path


def write_digits(path: Path, kind: str = "fsq") -> Path:
    """Write grids of codes of an implicit codebook; the class is the second digit of the left half."""
    implicit = ImplicitCodebook(kind, LEVELS)

    def draw(rng: np.random.Generator, labels: Any) -> Any:
        codes = rng.integers(0, implicit.size, (len(labels), SIDE, SIDE))
        codes[:, :, :3] = codes[:, :, :3] // 20 * 20 + codes[:, :, :3] % 5 + 5 * labels[:, None, None]
        return codes.astype(np.uint8)

    tokenizer = TokenizerIdentity("implicit", "cd" * 32, implicit_codebook=implicit)
    write_store(path, _splits(draw), implicit.size, tokenizer=tokenizer, class_names=tuple("abcd"))
    return path


def write_lists(path: Path, **spec: Any) -> Path:
    """Write lists of ten codes; the class is the fourth code."""

    def draw(rng: np.random.Generator, labels: Any) -> Any:
        codes = rng.integers(0, 32, (len(labels), 10)).astype(np.uint8)
        codes[:, 3] = labels
        return codes

    splits = {name: (codes, labels) for name, (codes, labels, _) in _splits(draw).items()}
    write_store(path, splits, 32, class_names=tuple("abcd"), **{"codebook": TABLE} | spec)
    return path


def write_pictures(folder: Path) -> Path:
    """Write pictures whose classes differ in brightness, as JPEG files of two qualities."""
    rng = np.random.default_rng(5)
    for split, count in (("train", SAMPLES), ("val", HELD_OUT)):
        for number in range(count):
            label = number % CLASSES
            coarse = np.clip(rng.normal(50 + 50 * label, 12, (4, 4, 3)), 0, 255).astype(np.uint8)
            image = Image.fromarray(coarse).resize((96, 96), Image.Resampling.BICUBIC)
            home = folder / split / "abcd"[label]
            home.mkdir(parents=True, exist_ok=True)
            image.save(
                home / f"{number:03}.jpg", quality=(75, 50)[number // CLASSES % 2], subsampling="4:2:0"
            )
    return folder


def write_dct(path: Path) -> Path:
    """Convert pictures to a store of DCT coefficients; half of the files have coarse tables."""
    pictures = write_pictures(path.with_suffix(".pictures"))
    tokenstore.convert(pictures, path, tokenizer=DCT, image_size=96, workers=0)
    return path


KINDS: dict[str, Callable[[Path], Path]] = {
    "residual": write_residual,
    "digits": write_digits,
    "lists": write_lists,
    "dct": write_dct,
}
