"""Samples of several views through the writer and every way of rewriting a store."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from helpers.broken_views import FLIP, boxes_of, views_of, worked_given_views
from helpers.context_models import smooth_codes
from helpers.stores import Samples, write_store

import tokenstore
from tokenstore.audit.verify import verify
from tokenstore.codecs import Views, named_codec
from tokenstore.errors import ArgumentError, CodecError, ConversionError, ManifestError
from tokenstore.format import TokenizerIdentity
from tokenstore.storage import open_storage
from tokenstore.writing import CodecChoice, StoreSpec, prune_codebook
from tokenstore.writing.codec_choice import _read
from tokenstore.writing.recode import recode

CODEBOOKS = (40, 300)


def flips(samples: int = 800, size: int = 30) -> Any:
    """Return smooth grids and their mirror images, whose codes are others (samples, 2, 5, 5)."""
    codes = smooth_codes(samples, (5, 5), size)
    other = np.random.default_rng(1).permutation(size).astype(codes.dtype)
    return np.stack([codes, other[codes[:, :, ::-1]]], axis=1)


@pytest.fixture(scope="module")
def flipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a store of pictures and their mirror images."""
    store = tmp_path_factory.mktemp("flipped") / "store"
    write_store(store, {"train": (flips(),)}, 30, views=Views(2, FLIP), shard_samples=128)
    return store


@pytest.fixture(scope="module")
def cropped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a store of two codebooks and three crops a sample, with boxes and labels."""
    store = tmp_path_factory.mktemp("cropped") / "store"
    splits = {
        name: Samples(
            views_of(samples, 3, (2, 3, 4), CODEBOOKS),
            np.arange(samples, dtype=np.int32),
            {"view_boxes": boxes_of(samples, 3)},
        )
        for name, samples in (("train", 23), ("val", 5))
    }
    write_store(store, splits, CODEBOOKS, views=Views(3), chunk_samples=4, shard_samples=8)
    return store


def assert_same(one: Path, other: Path) -> None:
    first, second = tokenstore.open(one), tokenstore.open(other)
    assert (first.manifest.views, first.manifest.grid) == (second.manifest.views, second.manifest.grid)
    for name in first.splits:
        for column in first[name].columns:
            np.testing.assert_array_equal(first[name].read(column), second[name].read(column))
    assert verify(other).ok


@pytest.mark.parametrize("codec", [pytest.param("context", marks=pytest.mark.thorough), "zstd"])
def test_views_are_recoded_and_nothing_is_lost(cropped: Path, tmp_path: Path, codec: str) -> None:
    recode(tokenstore.open(cropped), tmp_path / "out", codec=codec, shard_samples=16)
    assert tokenstore.open(tmp_path / "out").manifest.features == (codec, "views")
    assert_same(cropped, tmp_path / "out")
    recode(tmp_path / "out", codec="bitpack", shard_samples=8)
    assert_same(cropped, tmp_path / "out")
    shard = "train/tokens/c/0/0/0/0/0"
    assert (tmp_path / "out" / shard).read_bytes() == (cropped / shard).read_bytes()


def test_every_codec_is_a_choice_for_views(tmp_path: Path) -> None:
    write_store(tmp_path / "store", {"train": (flips(90, 12)[:, :, :3],)}, 12, views=Views(2, FLIP))
    choice = recode(tokenstore.open(tmp_path / "store"), tmp_path / "out", min_decode_rate=0).choice
    assert [part in choice.reason for part in ("bitpack: ", "context: ", "zstd: ")] == [True] * 3
    assert_same(tmp_path / "store", tmp_path / "out")


@pytest.mark.thorough
def test_mirror_images_are_coded_given_their_pictures(flipped: Path, tmp_path: Path) -> None:
    choice = recode(tokenstore.open(flipped), tmp_path / "out", codec="auto", min_decode_rate=0).choice
    assert choice.codec == "context"
    assert choice.given_views is not None
    assert choice.given_views.references == ((-1,), (0,))
    again = CodecChoice.from_json(choice.to_json())
    assert again.given_views is not None
    assert again.given_views.to_json() == choice.given_views.to_json()
    assert_same(flipped, tmp_path / "out")
    half = tmp_path / "half"
    write_store(half, {"train": (flips()[:, 0],)}, 30)
    recode(tokenstore.open(half), tmp_path / "one view", codec="context")
    one, two = (tokenstore.open(tmp_path / name).files.nbytes for name in ("one view", "out"))
    assert two < 1.6 * one


@pytest.mark.parametrize("codec", ["bitpack", "context"])
def test_a_codebook_is_pruned_by_the_codes_of_all_views(tmp_path: Path, codec: str) -> None:
    codes = views_of(20, 2, (2, 3), (9, 5))
    codes[:, 0, 0] = 3
    codes[:, 1, 0] = 7
    codes[:, :, 1] %= 2
    write_store(tmp_path / "whole", {"train": (codes,)}, (9, 5), views=Views(2), chunk_samples=4)
    prune_codebook(tokenstore.open(tmp_path / "whole"), open_storage(tmp_path / "out"), codec=codec)
    pruned = tokenstore.open(tmp_path / "out")
    assert pruned.manifest.tokenizer.kept_codes == ((3, 7), (0, 1))
    expected = codes.copy()
    expected[:, :, 0] = codes[:, :, 0] == 7
    np.testing.assert_array_equal(pruned["train"][:], expected)


def test_a_copy_is_the_same_store(cropped: Path, tmp_path: Path) -> None:
    tokenstore.copy(cropped, tmp_path / "copy.zip")
    stores = tokenstore.open(cropped), tokenstore.open(tmp_path / "copy.zip")
    assert len({store.files.root_digest for store in stores}) == 1


def test_a_wrong_code_or_shape_is_not_written(tmp_path: Path) -> None:
    for views, message in (
        (Views(3), r"expected integer codes of 3 views of grid \(4,\), found uint8 \(2, 4\)"),
        (Views(2), "sample 1: expected codes from 0 to 4 in codebook 1, found 8"),
    ):
        codes = views_of(3, 2, (4,) if views.count == 3 else (2, 4), 9 if views.count == 3 else (9, 9))
        codes[...] %= 5
        codes[1].reshape(-1)[-1] = 8
        sizes = 9 if views.count == 3 else (9, 5)
        with pytest.raises(CodecError, match=message):
            write_store(tmp_path / str(views.count), {"train": (codes,)}, sizes, views=views)


def test_given_views_are_those_of_the_store() -> None:
    with pytest.raises(ManifestError, match="given_views: expected those of the views of the store"):
        StoreSpec(TokenizerIdentity("test"), (1, 2), (3,), views=Views(2), given_views=worked_given_views())


def test_codes_of_views_are_written_from_a_loop_and_from_an_array(tmp_path: Path) -> None:
    codes, boxes = views_of(23, 3, (2, 4), 50), boxes_of(23, 3)
    small: dict[str, Any] = {"codebook_size": 50, "views": 3, "chunk_samples": 4, "shard_samples": 8}
    tokenstore.write(tmp_path / "whole", codes, columns={"view_boxes": boxes}, **small)
    with tokenstore.write(tmp_path / "loop", grid=(2, 4), **small) as writer:
        for start in range(0, 23, 5):
            part = slice(start, start + 5)
            writer.add(codes[part], columns={"view_boxes": boxes[part]})
    for name in ("whole", "loop"):
        store = tokenstore.open(tmp_path / name)
        assert (store.manifest.views, store.manifest.grid) == (Views(3), (2, 4))
        np.testing.assert_array_equal(store["train"][:], codes)
        np.testing.assert_array_equal(store["train"].read("view_boxes"), boxes)
    fixed = tokenstore.write(tmp_path / "fixed", codes[:, :2], codebook_size=50, views=FLIP)
    assert fixed.manifest.views == Views(2, FLIP)
    with pytest.raises(CodecError, match="expected integer codes of 2 views of grid"):
        tokenstore.write(tmp_path / "wrong", codes, codebook_size=50, views=2)
    with pytest.raises(ArgumentError, match="views: expected 2 to 256 views, found 1"):
        tokenstore.write(tmp_path / "one", codes, codebook_size=50, views=1)
    with contextlib.suppress(KeyError), tokenstore.write(tmp_path / "begun", grid=(2, 4), **small) as writer:
        writer.add(codes[:9])
        raise KeyError
    other: dict[str, Any] = {**small, "views": 2, "resume": True}
    with (
        pytest.raises(ConversionError, match=r"cannot resume .*: written was .*'views': 3"),
        tokenstore.write(tmp_path / "begun", grid=(2, 4), **other),
    ):
        pass


def test_the_rate_of_a_codec_is_that_of_one_view_of_each_sample() -> None:
    codes = views_of(9, 3, (2, 4), 50)
    for codec in (named_codec(name, 50, None, Views(3)) for name in ("bitpack", "context")):
        payload = np.frombuffer(codec.encode(codes, 9, 255), np.uint8)
        with mock.patch.object(type(codec), "decode_spans") as decode:
            _read(codec, payload, codes)()
        ((spans, chunk, row, out), _) = decode.call_args
        assert (len(spans[0].addresses), out.shape) == (27, (9, 2, 4))
        assert chunk.tolist() == [0] * 9
        assert (row // 3).tolist() == list(range(9))
    whole = named_codec("zstd", 50, None, Views(3))
    _read(whole, np.frombuffer(whole.encode(codes, 9, 255), np.uint8), codes)()
