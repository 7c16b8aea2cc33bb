"""Stores of every kind of tokens, whose classes can be seen: several codebooks, digits, lists, numbers."""

from __future__ import annotations

import functools
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


def _demo() -> dict[str, Any]:
    """Return some of the demo's images, handwritten digits (n, 8, 8) from 0 to 16, and labels, by split."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images, labels = digits.images.astype(np.int64), digits.target.astype(np.int32)
    return {"train": (images[:480], labels[:480]), "val": (images[480:600], labels[480:600])}


def _write_demo(path: Path, codes: Callable[[Any], Any], sizes: Any, **spec: Any) -> Path:
    splits = {name: (codes(images), labels) for name, (images, labels) in _demo().items()}
    write_store(path, splits, sizes, class_names=tuple("0123456789"), **spec)
    return path


def _demo_dct(path: Path) -> Path:
    for split, (images, labels) in _demo().items():
        for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
            file = path.with_suffix(".images") / split / str(label) / f"{number:03}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((image * 15).astype(np.uint8)).resize((32, 32), Image.Resampling.BICUBIC).save(
                file
            )
    tokenizer = "dct:y=6,cb=0,cr=0,sampling=444"
    tokenstore.convert(path.with_suffix(".images"), path, tokenizer=tokenizer, image_size=32, workers=0)
    return path


def _patches(images: Any) -> Any:
    """Return patches of 2x2 pixels (n, 4, 4, 4) from 0 to 1."""
    return (
        images.reshape(-1, 4, 2, 4, 2).transpose(0, 1, 3, 2, 4).reshape(-1, 4, 4, 4).astype(np.float32) / 16
    )


@functools.cache
def _clusters(size: int) -> Any:
    """Return the vectors (size, 4) of clusters of the patches that are trained on."""
    from sklearn.cluster import MiniBatchKMeans

    fitted = MiniBatchKMeans(size, random_state=0, n_init=1).fit(_patches(_demo()["train"][0]).reshape(-1, 4))
    return fitted.cluster_centers_.astype(np.float32)


def _nearest(vectors: Any, size: int) -> Any:
    return np.square(vectors[..., None, :] - _clusters(size)).sum(-1).argmin(-1).astype(np.uint8)


def _demo_residual(images: Any) -> Any:
    first = _nearest(_patches(images), 8)
    rest = _patches(images) - _clusters(8)[first]
    second = np.square(rest[..., None, :] - _REST).sum(-1).argmin(-1).astype(np.uint8)
    return np.stack([first, second], 1)


_REST = np.concatenate([step * np.eye(4, dtype=np.float32) for step in (0.25, -0.25)])
_IMPLICIT = TokenizerIdentity("implicit", "ee" * 32, implicit_codebook=ImplicitCodebook("fsq", (3, 3, 3, 3)))
DEMO: dict[str, Callable[[Path], Path]] = {
    "residual": lambda path: _write_demo(
        path, _demo_residual, (8, 8), codebook=np.stack([_clusters(8), _REST])
    ),
    "digits": lambda path: _write_demo(
        path,
        lambda images: ((_patches(images) * 2).round() @ (3 ** np.arange(4))).astype(np.uint8),
        81,
        tokenizer=_IMPLICIT,
    ),
    "lists": lambda path: _write_demo(
        path,
        lambda images: _nearest(_patches(images), 48).reshape(-1, 16),
        48,
        codebook=_clusters(48),
    ),
    "dct": _demo_dct,
}
"""Handwritten digits as tokens of each kind, of patches of 2x2 pixels; of coefficients, enlarged ones."""
