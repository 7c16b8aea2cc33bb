"""Stores of views, and the rows of the table of broken stores that break the MUSTs on views."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from helpers.broken_stores import TOKENS, Break, document, manifest, root, shard, sharding, zstd
from helpers.context_models import random_model, worked_model
from helpers.stores import Samples, random_codes, write_store
from tokenstore.codecs import Box, ContextModel, GivenViews, Views
from tokenstore.codecs.context.given import encoded_model

FLIP: tuple[Box, ...] = ((0, 0, 8, 8, 0), (0, 0, 8, 8, 1))
WORKED_CODES = np.array([[[[1, 2]], [[2, 2]]]], np.uint8)
"""The sample of the worked example in FORMAT.md, section 10, that is coded given a view."""
BOXES = "train/view_boxes/zarr.json"


def worked_given_views() -> GivenViews:
    """Return the views and their model of the worked example in FORMAT.md, section 10."""
    (plane,) = worked_model().planes
    framed = dataclasses.replace(plane, contexts=np.array([[-1, 0, 0]], np.int8))
    return GivenViews(Views(2, FLIP), ((-1,), (0,)), ContextModel(3, (framed,)))


def boxes_of(samples: int, views: int, seed: int = 0) -> Any:
    """Draw boxes (samples, views, 5) int32 as of crops of the samples' images."""
    rng = np.random.default_rng(seed)
    low, high = [0, 0, 1, 1, 0], [40, 50, 64, 64, 2]
    return rng.integers(low, high, (samples, views, 5)).astype(np.int32)


def views_of(
    samples: int, views: int, grid: tuple[int, ...], sizes: int | tuple[int, ...], seed: int = 0
) -> Any:
    """Draw codes (samples, views, *grid)."""
    return random_codes(samples * views, grid, sizes, seed).reshape(samples, views, *grid)


def write_views(path: Path, samples: int = 5, views: int = 2, **spec: Any) -> Samples:
    """Write a store of crops whose boxes are a column, in chunks of 2 and shards of 4; return its samples."""
    codes, boxes = views_of(samples, views, (3, 4), 391), boxes_of(samples, views)
    split = Samples(codes, np.arange(samples, dtype=np.int32) % 3, {"view_boxes": boxes})
    sizes = {"chunk_samples": 2, "shard_samples": 4, **spec}
    write_store(path, {"train": split}, 391, views=Views(views), **sizes)
    return split


def write_given_views(path: Path, codes: Any = WORKED_CODES) -> None:
    """Write a store of the worked example's views."""
    given_views = worked_given_views()
    spec = {"model": worked_model(), "views": given_views.views, "given_views": given_views}
    write_store(path, {"train": (codes,)}, 3, codec="context", **spec)


def configuration(**values: Any) -> Break:
    """Return a break that sets fields of the configuration of the tokens' codec; None takes one out."""

    def edit(sharding: Any) -> None:
        own = sharding["codecs"][0]["configuration"]
        for name, value in values.items():
            own.pop(name) if value is None else own.update({name: value})

    return sharding_of_tokens(edit)


def sharding_of_tokens(edit: Any) -> Break:
    return sharding(TOKENS, edit)


def given(**values: Any) -> Break:
    """Return a break that sets fields of the views in the configuration of the context codec."""
    return sharding_of_tokens(lambda own: own["codecs"][0]["configuration"]["views"].update(values))


def boxes(*values: Any) -> Break:
    """Return a break that writes other boxes of the first samples, in turn."""
    stored = np.array(values, np.int32)[np.arange(4) % len(values)].reshape(2, 2, 5)
    return shard("train/view_boxes/c/0/0/0", lambda all_: [zstd(stored), all_[1]], chunks_per_shard=2)


def payload(data: bytes, chunks_per_shard: int = 2) -> Break:
    """Return a break that writes another first chunk of the tokens."""
    path = "train/tokens/c/0/0/0/0"
    return shard(path, lambda all_: [data, *all_[1:]], chunks_per_shard)


VIEWS: list[tuple[int, Break, str]] = [
    (35, manifest(features=["bitpack"]), "manifest.views: expected .* with the feature 'views', found 2"),
    (
        35,
        root(lambda values: values["attributes"]["tokenstore"].pop("views")),
        "views: .*found none",
    ),
    (35, manifest(views=1), "manifest.views: expected 2 to 256 views, found 1"),
    (35, manifest(views=257), "manifest.views: expected 2 to 256 views, found 257"),
    (35, manifest(views=2.0), "manifest.views: expected the number of views, or a box of 5 integers"),
    (35, manifest(views=3), r"expected 3 views of the manifest's grid \(3, 4\), found \(2, 3, 4\)"),
    (35, manifest(grid=[2, 3, 4]), r"expected 2 views of the manifest's grid \(2, 3, 4\), found"),
    (35, manifest(grid=[1] * 63), "at most 62 axes, found 63"),
    (36, boxes([0, 0, 8, 8, 0], [0, -1, 8, 8, 1]), r"0 or 1 for mirrored, found \[0, -1, 8, 8, 1\]"),
    (36, boxes([0, 0, 8, 0, 0]), r"0 or 1 for mirrored, found \[0, 0, 8, 0, 0\]"),
    (36, boxes([0, 0, 8, 8, 2]), r"0 or 1 for mirrored, found \[0, 0, 8, 8, 2\]"),
    (36, boxes([2**20, 0, 1, 8, 0]), r"0 or 1 for mirrored, found \[1048576, 0, 1, 8, 0\]"),
    (37, manifest(views=[list(box) for box in FLIP]), "expected no boxes of each sample beside those"),
    (
        37,
        document(BOXES, lambda array: array.update(data_type="int64")),
        r"found int64\[2, 5\]",
    ),
    (38, configuration(views=None), "expected a codec of 2 views a sample, found one of samples without"),
    (38, configuration(views=3), "expected a codec of 2 views a sample, found one of 3 views a sample"),
    (38, configuration(views=True), "expected an integer codebook_size, and 2 to 256 views"),
    (38, payload(bytes(3 * 14)), "expected 2 samples of 28 bytes, found 42"),
]
GIVEN_VIEWS: list[tuple[int, Break, str]] = [
    (36, manifest(views=[[0, 0, 8, 8], [0, 0, 8, 8]]), "or a box of 5 integers"),
    (36, manifest(views=[[0, 0, 8, 8, 0], [0, 0, 8, 2**70, 1]]), "0 or 1 for mirrored, found"),
    (39, configuration(views=None), "expected a codec of 2 views a sample, found one of samples without"),
    (39, given(boxes=[[0, 0, 8, 8, 0], [0, 0, 8, 9, 1]]), "expected a codec of the manifest's views"),
    (39, given(boxes=2, references=[[], []], model=None), "expected a codec of the manifest's views"),
    (
        39,
        payload(bytes.fromhex("01 01000000 01000000 00 d1"), 1),
        "2 views of every sample, found 1",
    ),
    (39, payload(bytes.fromhex("01 04000000 00000000 00"), 1), "expected at most 2 samples, found 4"),
    (40, given(references=[[-1], [1]]), "expected references of view 1 before it, or -1, found"),
    (40, given(references=[[-1], [0], [0]]), "expected the references of 2 views, equally many each"),
    (40, given(references=[[-1] * 5, [0] * 5]), "equally many each and up to 4"),
    (40, given(references=[[-1], [-1]]), "expected a model of views exactly where a view has references"),
    (40, given(model=None), "expected a model of views exactly where a view has references"),
    (40, configuration(model="AAAA"), "tokens: not the metadata"),
    (
        40,
        given(model=encoded_model(random_model((5,), 3))),
        "context model of 3 codes, found one of 5",
    ),
    (40, given(model=encoded_model(worked_model())), "expected a grid of 2 axes"),
]
