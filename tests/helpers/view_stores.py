"""Stores of views in every codec, for tests that read them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from helpers.broken_views import boxes_of, views_of
from helpers.context_models import random_model
from helpers.stores import Samples, write_store
from tokenstore.codecs import ContextModel, GivenViews, Views

SAMPLES, VIEWS, GRID, SIZES = 41, 3, (2, 3, 4), (40, 7)
CROPS = Views(VIEWS, ((0, 0, 64, 64, 0), (0, 0, 64, 64, 1), (16, 8, 48, 56, 0)))
KINDS = ("bitpack", "zstd", "context", "given")
"""The codecs of `write_kind`: "given" is `context`, whose views are coded given others."""


def codes_of_views(seed: int = 0, samples: int = SAMPLES) -> Any:
    """Draw codes (samples, VIEWS, *GRID): those of the first chunk in three are few, the others any."""
    codes = views_of(samples, VIEWS, GRID, SIZES, seed)
    few = np.arange(samples) // 4 % 3 == 0
    codes[few] *= codes[few] % 8 == 7
    return codes


def skewed_model(rank: int, seed: int = 0) -> ContextModel:
    """Return a model of SIZES to which small codes are likely, and how likely depends on the codes before."""
    model = random_model(SIZES, rank, seed=seed, contexts=2)
    planes = []
    for plane in model.planes:
        _, digit = plane.tree.child_places()
        order = np.arange(plane.size, dtype=np.uint32)
        planes.append(dataclasses.replace(plane, order=order, biases=(-300 * digit).astype(np.int16)))
    return dataclasses.replace(model, planes=tuple(planes))


def write_kind(path: Path, kind: str, samples: int = SAMPLES, **spec: Any) -> Samples:
    """Write a split whose labels are row numbers, in chunks of 4 and shards of 12; return its samples."""
    given = GivenViews(CROPS, ((-1, -1), (-1, 0), (1, 0)), skewed_model(4, seed=1))
    of_kind: dict[str, dict[str, Any]] = {
        "context": {"codec": "context", "model": skewed_model(3), "views": CROPS},
        "given": {"codec": "context", "model": skewed_model(3), "views": CROPS, "given_views": given},
    }
    settings = of_kind.get(kind, {"codec": kind, "views": Views(VIEWS)})
    boxes = {} if kind in of_kind else {"view_boxes": boxes_of(samples, VIEWS)}
    split = Samples(codes_of_views(samples=samples), np.arange(samples, dtype=np.int32), boxes)
    write_store(path, {"train": split}, SIZES, chunk_samples=4, shard_samples=12, **settings, **spec)
    return split
