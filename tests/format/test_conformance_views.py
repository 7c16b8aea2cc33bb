"""FORMAT.md's MUSTs on views (M35 to M41), against literal bytes, plain arithmetic and Zarr's reader."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from helpers import plain_context
from helpers.broken_stores import manifest
from helpers.broken_views import (
    FLIP,
    WORKED_CODES,
    boxes_of,
    views_of,
    worked_given_views,
    write_given_views,
    write_views,
)
from helpers.conformance import FORMAT, manifest_of, read_json, shard_of
from helpers.context_models import worked_model
from helpers.stores import Samples, write_store

import tokenstore
from tokenstore.codecs import Views, codec_from_zarr
from tokenstore.errors import CodecError, ManifestError
from tokenstore.format import StoreFields, TokenizerIdentity


def shown(text: str) -> str:
    """Return FORMAT.md's words around some bytes with single spaces, to look for them."""
    words = re.sub(r"\s+", " ", FORMAT.read_text())
    assert text in words
    return words


def inner_codec(store: Path) -> Any:
    return read_json(store / "train/tokens/zarr.json")["codecs"][0]["configuration"]["codecs"][0]


def test_m35_tokens_have_an_axis_of_views_behind_that_of_samples(tmp_path: Path) -> None:
    samples = write_views(tmp_path / "store")
    assert manifest_of(tmp_path / "store")["features"] == ["bitpack", "views"]
    assert (manifest_of(tmp_path / "store")["views"], manifest_of(tmp_path / "store")["grid"]) == (2, [3, 4])
    document = read_json(tmp_path / "store/train/tokens/zarr.json")
    assert document["shape"] == [5, 2, 3, 4]
    assert document["dimension_names"] == ["sample", "view", "row", "column"]
    np.testing.assert_array_equal(zarr.open(tmp_path / "store", mode="r")["train/tokens"][:], samples.codes)


def test_m35_without_the_feature_there_are_no_views(tmp_path: Path) -> None:
    write_views(tmp_path / "store")
    manifest(features=["bitpack"])(tmp_path / "store")
    with pytest.raises(ManifestError, match="the views of samples exactly with the feature 'views', found 2"):
        tokenstore.open(tmp_path / "store")
    write_views(tmp_path / "zstd", codec="zstd")
    manifest(features=["zstd", "views"], views=3)(tmp_path / "zstd")
    with pytest.raises(ManifestError, match=r"expected 3 views of the manifest's grid \(3, 4\)"):
        tokenstore.open(tmp_path / "zstd")["train"]


@pytest.mark.parametrize("codec", ["bitpack", "zstd"])
def test_m35_an_axis_of_views_that_the_manifest_does_not_name_is_refused(tmp_path: Path, codec: str) -> None:
    write_store(tmp_path / "store", {"train": (views_of(3, 2, (3, 4), 391),)}, 391, codec=codec)
    manifest(grid=[3, 4])(tmp_path / "store")
    with pytest.raises(ManifestError, match=r"expected the manifest's grid \(3, 4\), found \(2, 3, 4\)"):
        tokenstore.open(tmp_path / "store")["train"]


def test_m35_a_grid_has_room_for_the_axis_of_views() -> None:
    StoreFields(TokenizerIdentity("test"), (1,) * 62, (5,), views=Views(2)).check()
    with pytest.raises(ManifestError, match="at most 62 axes, found 63"):
        StoreFields(TokenizerIdentity("test"), (1,) * 63, (5,), views=Views(2)).check()


def test_m36_boxes_of_all_samples_stand_in_the_manifest(tmp_path: Path) -> None:
    write_store(tmp_path / "store", {"train": (views_of(3, 2, (2, 2), 5),)}, 5, views=Views(2, FLIP))
    assert manifest_of(tmp_path / "store")["views"] == [[0, 0, 8, 8, 0], [0, 0, 8, 8, 1]]
    assert tokenstore.open(tmp_path / "store").manifest.views == Views(2, FLIP)


@pytest.mark.parametrize(
    "box", [(-1, 0, 8, 8, 0), (0, 0, 0, 8, 0), (0, 0, 8, 8, 2), (0, 2**20, 8, 1, 0), (0, 0, 8, 2**64, 0)]
)
def test_m36_a_box_lies_in_an_image(box: Any) -> None:
    with pytest.raises(CodecError, match=re.escape(f"0 or 1 for mirrored, found {list(box)}")):
        Views(2, ((0, 0, 2**20, 1, 1), box))


def test_m37_boxes_that_differ_are_an_aligned_array(tmp_path: Path) -> None:
    samples = write_views(tmp_path / "store")
    document = read_json(tmp_path / "store/train/view_boxes/zarr.json")
    assert (document["shape"], document["data_type"]) == ([5, 2, 5], "int32")
    boxes = tokenstore.open(tmp_path / "store")["train"].read("view_boxes")
    np.testing.assert_array_equal(boxes, samples.columns["view_boxes"])


@pytest.mark.parametrize(
    ("views", "boxes", "message"),
    [
        (Views(2, FLIP), boxes_of(3, 2), "view_boxes: expected no boxes of each sample beside"),
        (Views(2), boxes_of(3, 3), r"view_boxes: expected int32\[2, 5\], found int32\[3, 5\]"),
        (Views(2), boxes_of(3, 2) - 90, "train shard 0, view_boxes: expected the top, left, height"),
    ],
)
def test_m37_other_boxes_are_not_written(tmp_path: Path, views: Views, boxes: Any, message: str) -> None:
    samples = Samples(views_of(3, 2, (2, 2), 5), None, {"view_boxes": boxes})
    with pytest.raises(tokenstore.TokenstoreError, match=message):
        write_store(tmp_path / "store", {"train": samples}, 5, views=views)


def test_m37_without_the_feature_an_array_of_this_name_means_nothing(tmp_path: Path) -> None:
    samples = Samples(views_of(3, 2, (2, 2), 5), None, {"view_boxes": np.ones((3, 7), np.float32)})
    write_store(tmp_path / "store", {"train": samples}, 5)
    assert tokenstore.verify(tmp_path / "store").ok


def test_m38_the_worked_example_has_the_bytes_of_the_format(tmp_path: Path) -> None:
    shown("K = 5, `bitpack`, codes of one sample [[1, 2, 3], [4, 0, 1]]: `d1 00 44 00`")
    codes = np.array([[[1, 2, 3], [4, 0, 1]]], np.uint8)
    write_store(tmp_path / "store", {"train": (codes,)}, 5, views=Views(2), chunk_samples=1)
    assert inner_codec(tmp_path / "store") == {
        "name": "tokenstore.bitpack",
        "configuration": {"codebook_size": 5, "views": 2},
    }
    shard = (tmp_path / "store/train/tokens/c/0/0/0").read_bytes()
    assert shard == shard_of(bytes.fromhex("d1 00 44 00"), chunks_per_shard=1)


def test_m38_and_m39_missing_samples_decode_to_the_fill_value(tmp_path: Path) -> None:
    for codec in ("bitpack", "context", "zstd"):
        codes = views_of(3, 2, (2, 2), 5)
        write_store(tmp_path / codec, {"train": (codes,)}, 5, views=Views(2), codec=codec, chunk_samples=2)
        np.testing.assert_array_equal(zarr.open(tmp_path / codec, mode="r")["train/tokens"][:], codes)


def test_m39_and_m40_the_worked_example_has_the_bytes_of_the_format(tmp_path: Path) -> None:
    chunk, head = "01 02000000 01000000 00 d1 fb", "01 03 0100 03000000 01 00 01 00 05"
    shown(f"`{chunk}`")
    shown(f"`{head}`")
    write_given_views(tmp_path / "store")
    codec = inner_codec(tmp_path / "store")
    assert codec["configuration"]["views"].keys() == {"boxes", "references", "model"}
    decoded = np.empty_like(WORKED_CODES)
    codec_from_zarr([codec]).decode(np.frombuffer(bytes.fromhex(chunk), np.uint8), decoded)
    np.testing.assert_array_equal(decoded, WORKED_CODES)
    given_views = worked_given_views()
    assert given_views.model is not None
    assert given_views.model.to_bytes().startswith(bytes.fromhex(head))
    alone = plain_context.encoded(worked_model(), (1, 2), [1, 2])
    first_frame = {(0, 0, 0): 2, (0, 0, 1): 1}  # the first view, mirrored
    given = plain_context.encoded(given_views.model, (2, 1, 2), [2, 1, 2, 2], first_frame)
    assert (alone.hex(), given.hex()) == ("d1", "fb")
    np.testing.assert_array_equal(tokenstore.open(tmp_path / "store")["train"][:], WORKED_CODES)


def test_m40_views_that_are_coded_alone_need_no_model_of_views() -> None:
    configuration = {"codebook_size": 3, "model": None, "views": {"boxes": 2, "references": [[], []]}}
    with pytest.raises(CodecError, match="expected views of boxes, references and model"):
        codec_from_zarr([{"name": "tokenstore.context", "configuration": configuration}])
    configuration["views"] = {"boxes": 2, "references": [[], []], "model": None}
    assert codec_from_zarr([{"name": "tokenstore.context", "configuration": configuration}]).views == 2


def cells(view: Any, other: Any, height: int, width: int) -> list[list[int | None]]:
    """Return the cell of the reference for each cell of a view, by the letter of M41."""
    top, left, h, w, f = view
    top2, left2, h2, w2, f2 = other
    found: list[list[int | None]] = []
    for r in range(height):
        found.append([])
        for column in range(width):
            c = width - 1 - column if f else column
            row = (2 * height * (top - top2) + (2 * r + 1) * h) // (2 * h2)
            x = (2 * width * (left - left2) + (2 * c + 1) * w) // (2 * w2)
            inside = 0 <= row < height and 0 <= x < width
            x = width - 1 - x if f2 else x
            found[-1].append(row * width + x if inside else None)
    return found


def test_m41_the_worked_example_of_a_crop() -> None:
    shown("Its first row has the codes of the cells none, none, none, 7 of the first view")
    views = Views(2, ((0, 0, 64, 64, 0), (16, 40, 64, 64, 1)))
    assert views.cells(1, 0, (4, 4)).reshape(4, 4)[0].tolist() == [-1, -1, -1, 7]


def test_m41_cells_are_those_of_the_format() -> None:
    rng = np.random.default_rng(0)
    for seed in range(100):
        view, other = (tuple(box) for box in boxes_of(1, 2, seed)[0].tolist())
        height, width = rng.integers(1, 6, 2).tolist()
        expected = cells(view, other, height, width)
        found = Views(2, (view, other)).cells(0, 1, (height, width)).reshape(height, width)
        assert found.tolist() == [[-1 if cell is None else cell for cell in row] for row in expected]
