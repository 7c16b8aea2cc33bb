"""Conversions pruned to the codes that occur."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.brightness import BrightnessTokenizer, write_grey_folder
from helpers.stores import Samples, random_codes, write_store

import tokenstore
from tokenstore.audit.verify import verify
from tokenstore.conversion.convert import convert_source
from tokenstore.conversion.options import ConvertOptions, Progress
from tokenstore.errors import ConversionError, StoreExistsError
from tokenstore.format.manifest import TokenizerIdentity
from tokenstore.format.tables import Skip
from tokenstore.sources import open_source
from tokenstore.storage import open_storage
from tokenstore.writing.prune import codes_that_occur, prune_codebook

OPTIONS = ConvertOptions(workers=0, chunk_samples=4, shard_samples=8, prune_codebook=True)


@pytest.mark.parametrize("out", ["out.zarr", "out.zip"])
@pytest.mark.parametrize("codec", ["bitpack", "zstd", "context", "auto"])
def test_a_conversion_keeps_only_the_codes_that_occur(tmp_path: Path, out: str, codec: str) -> None:
    levels = write_grey_folder(tmp_path / "images", 7)
    source = open_source(tmp_path / "images")
    options = replace(OPTIONS, codec=codec)
    conversion = convert_source(source, tmp_path / out, tokenizer=BrightnessTokenizer(), options=options)
    store = tokenstore.open(tmp_path / out)
    manifest = store.manifest
    assert manifest == conversion.manifest
    assert manifest.codebook_sizes == (21,)
    assert manifest.tokenizer.kept_codes == (tuple(sorted(level for level, _ in levels.values())),)
    old = np.array(manifest.tokenizer.kept_codes[0])
    names = store["train"].samples_table()["source"].to_pylist()
    assert old[store["train"][:]][:, 0, 0].tolist() == [levels[name][0] for name in names]
    assert store["train"].labels.tolist() == [levels[name][1] for name in names]
    assert store.codebook is not None
    assert store.codebook[:, 0].tolist() == old.tolist()
    assert verify(str(tmp_path / out)).ok
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", out], "nothing else is left"


def test_a_pruned_store_is_not_of_the_tokenizer_that_was_not_pruned(tmp_path: Path) -> None:
    write_grey_folder(tmp_path / "images", 2)
    source = open_source(tmp_path / "images")
    pruned = convert_source(source, tmp_path / "a", tokenizer=BrightnessTokenizer(), options=OPTIONS)
    whole = convert_source(
        source,
        tmp_path / "b",
        tokenizer=BrightnessTokenizer(),
        options=replace(OPTIONS, prune_codebook=False),
    )
    assert pruned.manifest.tokenizer.fingerprint == whole.manifest.tokenizer.fingerprint
    assert pruned.manifest.tokenizer != whole.manifest.tokenizer


def test_what_is_in_the_way_is_refused_before_anything_is_converted(tmp_path: Path) -> None:
    write_grey_folder(tmp_path / "images", 2)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    tokenizer = BrightnessTokenizer()
    with pytest.raises(StoreExistsError, match="already there"):
        convert_source(
            open_source(tmp_path / "images"), tmp_path / "out", tokenizer=tokenizer, options=OPTIONS
        )
    assert not tokenizer.batches
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["notes.txt"]


def test_several_codebooks_are_pruned_each_by_itself(tmp_path: Path) -> None:
    codes = random_codes(10, (2, 3, 3), (5, 9))
    codes[:, 0][codes[:, 0] == 2] = 3
    codes[:, 1][codes[:, 1] >= 4] = 8
    vectors = np.random.default_rng(0).normal(size=(2, 9, 4)).astype(np.float32)
    masks = np.arange(10 * 4, dtype=np.uint8).reshape(10, 4)
    skips = [Skip(10, "train/10.png", "the file is empty")]
    samples = Samples(codes, np.arange(10, dtype=np.int32), {"masks": masks}, skips)
    write_store(tmp_path / "whole", {"train": samples}, (5, 9), codebook=vectors, chunk_samples=4)
    manifest = prune_codebook(tokenstore.open(tmp_path / "whole"), open_storage(tmp_path / "pruned"))
    assert manifest.tokenizer.kept_codes == ((0, 1, 3, 4), (0, 1, 2, 3, 8))
    assert manifest.codebook_sizes == (4, 5)
    store = tokenstore.open(tmp_path / "pruned")
    new = store["train"][:]
    for plane, kept in enumerate(manifest.tokenizer.kept_codes):
        np.testing.assert_array_equal(np.array(kept)[new[:, plane]], codes[:, plane])
        assert store.codebook is not None
        np.testing.assert_array_equal(store.codebook[plane, : len(kept)], vectors[plane, list(kept)])
    np.testing.assert_array_equal(store["train"].read("masks", range(10)), masks)
    assert manifest.splits["train"].skipped == 1
    assert store["train"].samples_table()["source"].to_pylist() == [f"train/{i}.png" for i in range(10)]
    assert verify(str(tmp_path / "pruned")).ok


def test_synonyms_keep_their_order_and_lose_the_codes_that_went(tmp_path: Path) -> None:
    codes = np.array([[0, 2], [4, 2]], np.uint8)
    synonyms = np.array([[1, 2, 4], [0, 2, 3], [4, 3, 0], [1, 2, 4], [3, 1, -1]], np.int32)
    write_store(tmp_path / "whole", {"train": (codes,)}, 5, synonyms=synonyms)
    prune_codebook(tokenstore.open(tmp_path / "whole"), open_storage(tmp_path / "pruned"))
    store = tokenstore.open(tmp_path / "pruned")
    assert store.synonyms is not None
    assert store.synonyms.tolist() == [[1, 2, -1], [2, 0, -1], [-1, -1, -1]]
    assert verify(str(tmp_path / "pruned")).ok


def test_pruning_a_pruned_store_leads_back_to_the_tokenizers_own_codes(tmp_path: Path) -> None:
    identity = TokenizerIdentity("test", "f" * 64, kept_codes=((10, 20, 30, 40),))
    write_store(tmp_path / "whole", {"train": (np.array([[1, 3]], np.uint8),)}, 4, tokenizer=identity)
    manifest = prune_codebook(tokenstore.open(tmp_path / "whole"), open_storage(tmp_path / "pruned"))
    assert manifest.tokenizer.kept_codes == ((20, 40),)


def test_all_splits_count(tmp_path: Path) -> None:
    splits = {"train": (np.array([[1]], np.uint8),), "val": (np.array([[6]], np.uint8),)}
    write_store(tmp_path / "whole", splits, 9)
    kept = codes_that_occur(tokenstore.open(tmp_path / "whole"))
    assert [codes.tolist() for codes in kept] == [[1, 6]]


def _stop_before_rewriting(progress: Progress) -> None:
    if progress.split.endswith("rewriting"):
        raise KeyboardInterrupt


@pytest.mark.parametrize("out", ["out.zarr", "out.zip"])
def test_a_conversion_stopped_before_pruning_is_not_resumed_with_other_inputs(
    tmp_path: Path, out: str
) -> None:
    for name in ("a", "b"):
        write_grey_folder(tmp_path / name, 4)
    (tmp_path / "b" / "class-0" / "000.png").unlink()
    first, other = (open_source(tmp_path / name) for name in ("a", "b"))
    target, tokenizer = tmp_path / "stores" / out, BrightnessTokenizer()
    target.parent.mkdir()
    with pytest.raises(KeyboardInterrupt):
        convert_source(
            first, target, tokenizer=tokenizer, options=OPTIONS, on_progress=_stop_before_rewriting
        )
    with pytest.raises(StoreExistsError, match="resume=True"):
        convert_source(first, target, tokenizer=tokenizer, options=OPTIONS)
    with pytest.raises(ConversionError, match="cannot resume with other inputs"):
        convert_source(other, target, tokenizer=tokenizer, options=OPTIONS, resume=True)
    plain = replace(OPTIONS, prune_codebook=False)
    with pytest.raises(ConversionError, match="prune_codebook was True, is now False"):
        convert_source(first, target, tokenizer=tokenizer, options=plain, resume=True)
    convert_source(first, target, tokenizer=tokenizer, options=OPTIONS, resume=True)
    assert [path.name for path in target.parent.iterdir()] == [out]
    assert tokenstore.open(target).manifest.codebook_sizes == (12,)
