"""Columns of texts, lists and soft labels for tests, and stores that have them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from helpers.stores import Samples, random_codes, write_store
from tokenstore.codecs import TEXT, Column, list_column
from tokenstore.codecs.soft_labels import SoftLabels

BOXES = list_column(np.dtype(np.float32), (4,))
TAGS = list_column(np.dtype(np.int16))
SOFT = Column(np.dtype(np.uint16), (2, 2), SoftLabels(5))
KINDS = {"caption": TEXT, "boxes": BOXES, "tags": TAGS, "soft_labels": SOFT}


def objects(values: Iterable[Any]) -> npt.NDArray[Any]:
    """Return values as an array (n,) of Python objects."""
    listed = list(values)
    array = np.empty(len(listed), object)
    for place, value in enumerate(listed):
        array[place] = value
    return array


def ragged_columns(samples: int, seed: int = 0) -> dict[str, npt.NDArray[Any]]:
    """Return a column of each kind; texts are ASCII, other scripts, long or empty."""
    rng = np.random.default_rng(seed)
    texts = ["", "a cat", "größte Katze", "猫が窓辺に座る", "x" * 300, "line\nbreak\0zero", "🐈‍⬛"]
    sizes = rng.integers(0, 4, samples)
    probabilities = rng.dirichlet(np.ones(5), samples)
    return {
        "caption": objects(f"{texts[row % 7]}{row if row % 3 else ''}" for row in range(samples)),
        "boxes": objects(rng.random((int(size), 4), np.float32) for size in sizes),
        "tags": objects(rng.integers(-9, 9, int(size)).astype(np.int16) for size in sizes[::-1]),
        "soft_labels": SoftLabels(5).quantised(probabilities, 2),
    }


def ragged_samples(samples: int, seed: int = 0, grid: tuple[int, ...] = (3, 4)) -> Samples:
    """Return a split with a column of each kind."""
    labels = (np.arange(samples) % 3).astype(np.int32)
    columns = ragged_columns(samples, seed)
    return Samples(random_codes(samples, grid, 391, seed), labels, columns, (), KINDS)


def write_ragged(path: Path, samples: int = 21, seed: int = 0, **spec: Any) -> Samples:
    """Write a store with a column of each kind, in chunks of 2 and shards of 8; return its samples."""
    split = ragged_samples(samples, seed)
    sizes = {"chunk_samples": 2, "shard_samples": 8, **spec}
    write_store(path, {"train": split, "val": ragged_samples(3, seed + 1)}, 391, **sizes)
    return split


def same(found: Any, expected: Any) -> bool:
    """Return whether two sequences of texts, or of arrays, are equal in values, shapes and dtypes."""
    pairs = list(zip(found, expected, strict=True))
    return all(
        np.asarray(one).shape == np.asarray(two).shape
        and np.asarray(one).dtype == np.asarray(two).dtype
        and np.array_equal(one, two)
        for one, two in pairs
    )
