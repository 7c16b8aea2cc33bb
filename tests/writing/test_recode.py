"""Stores recoded to other bytes with the same samples."""

from __future__ import annotations

import importlib
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from helpers.stores import Samples, write_store

import tokenstore
from tokenstore.audit.stats import stats
from tokenstore.audit.verify import verify
from tokenstore.codecs.context import Context
from tokenstore.errors import CodecError, ConversionError, DamageError, StoreError, StoreExistsError
from tokenstore.format.tables import Skip
from tokenstore.reading import StoreFiles
from tokenstore.storage import IN_PLACE_MARKER, open_storage
from tokenstore.writing.codec_choice import CodecChoice
from tokenstore.writing.recode import recode
from tokenstore.writing.rewrite import skips_of

pytestmark = pytest.mark.usefixtures("quick_fits")


def smooth_codes(samples: int, side: int, size: int, seed: int = 0) -> npt.NDArray[np.uint16]:
    """Draw codes that their neighbours say much of: a smooth field in steps."""
    noise = np.random.default_rng(seed).normal(size=(samples, side + 3, side + 3))
    field = sum(noise[:, y : y + side, x : x + side] for y in range(4) for x in range(4))
    ranks = field.argsort(axis=None).argsort().reshape(field.shape)
    return (ranks * size // field.size).astype(np.uint16)


@pytest.fixture(scope="module")
def smooth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a store in two splits whose smallest codec is `context`."""
    folder = tmp_path_factory.mktemp("smooth") / "whole.zarr"
    codes = smooth_codes(420, 12, 30)
    skips = [Skip(400, "train/400.png", "the file is empty")]
    masks = np.arange(400 * 4, dtype=np.uint8).reshape(400, 4)
    write_store(
        folder,
        {
            "train": Samples(codes[:400], np.arange(400, dtype=np.int32) % 7, {"masks": masks}, skips),
            "val": Samples(codes[400:], np.arange(20, dtype=np.int32) % 7),
        },
        30,
        chunk_samples=32,
        shard_samples=96,
        codebook=np.arange(90, dtype=np.float32).reshape(30, 3),
        synonyms=np.arange(60, dtype=np.int32).reshape(30, 2) % 30,
        class_names=tuple("abcdefg"),
    )
    return folder


def assert_same_samples(one: Path, other: Path) -> None:
    first, second = tokenstore.open(one), tokenstore.open(other)
    assert first.splits == second.splits
    for name in first.splits:
        assert first[name].columns == second[name].columns
        for column in first[name].columns:
            here = np.arange(len(first[name]))
            np.testing.assert_array_equal(first[name].read(column, here), second[name].read(column, here))
        assert first[name].samples_table() == second[name].samples_table()
        assert skips_of(first[name]) == skips_of(second[name])
    for field in ("tokenizer", "grid", "codebook_sizes", "class_names", "preprocessing", "source_kind"):
        assert getattr(first.manifest, field) == getattr(second.manifest, field)
    np.testing.assert_array_equal(first.codebook, second.codebook)
    np.testing.assert_array_equal(first.synonyms, second.synonyms)


@pytest.mark.parametrize("out", [pytest.param("out.zarr", marks=pytest.mark.thorough), "out.zip"])
def test_every_codec_recodes_to_every_other_and_loses_nothing(smooth: Path, tmp_path: Path, out: str) -> None:
    before = smooth
    for step, codec in enumerate(("context", "zstd", "context", "bitpack")[: 4 if out == "out.zarr" else 2]):
        after = tmp_path / str(step) / out
        recode(tokenstore.open(before), open_storage(after), codec=codec, shard_samples=128)
        assert tokenstore.open(after).manifest.features == (codec,)
        assert_same_samples(smooth, after)
        assert verify(after).ok
        assert [path.name for path in after.parent.iterdir()] == [after.name], "nothing else is left"
        before = after


def test_auto_takes_the_smallest_and_says_why(smooth: Path, tmp_path: Path) -> None:
    choices: list[CodecChoice] = []
    choices.append(recode(tokenstore.open(smooth), tmp_path / "out", min_decode_rate=0).choice)
    store = tokenstore.open(tmp_path / "out")
    assert store.manifest.features == (choices[0].codec,) == ("context",)
    assert store.files.nbytes < 0.8 * tokenstore.open(smooth).files.nbytes
    assert re.search(
        r"smallest of bitpack: [\d,]+ bytes, [\d,]+ samples/s a core; context: .*; zstd", choices[0].reason
    )
    assert_same_samples(smooth, tmp_path / "out")


@pytest.mark.thorough
def test_auto_keeps_to_the_speed_asked_for(smooth: Path, tmp_path: Path) -> None:
    choices: list[CodecChoice] = []
    choices.append(recode(tokenstore.open(smooth), tmp_path / "out", min_decode_rate=2e5).choice)
    assert choices[0].codec != "context"
    assert "context below 200,000 samples/s" in choices[0].reason
    with pytest.raises(
        StoreError, match=r"no codec decodes 1,000,000,000,000 samples/s .*min_decode_rate=..."
    ):
        recode(tokenstore.open(smooth), open_storage(tmp_path / "other"), min_decode_rate=1e12)


@pytest.mark.parametrize(
    ("name", "codes"),
    [
        ("zstd", np.repeat(np.random.default_rng(1).integers(0, 500, (200, 1)), 64, axis=1)),
        pytest.param(
            "bitpack", np.random.default_rng(1).integers(0, 512, (200, 64)), marks=pytest.mark.thorough
        ),
    ],
)
def test_auto_takes_another_codec_where_that_is_smaller(tmp_path: Path, name: str, codes: Any) -> None:
    write_store(tmp_path / "whole", {"train": (codes.astype(np.uint16),)}, 512)
    recode(tokenstore.open(tmp_path / "whole"), open_storage(tmp_path / "out"), codec="auto")
    assert tokenstore.open(tmp_path / "out").manifest.features == (name,)
    np.testing.assert_array_equal(tokenstore.open(tmp_path / "out")["train"][:], codes)


def test_an_empty_store_is_recoded_too(tmp_path: Path) -> None:
    write_store(tmp_path / "whole", {"train": (np.empty((0, 4), np.uint8),)}, 9)
    for codec in ("auto", "context", "zstd"):
        recode(tokenstore.open(tmp_path / "whole"), open_storage(tmp_path / codec), codec=codec)
        assert len(tokenstore.open(tmp_path / codec)["train"]) == 0


@pytest.mark.parametrize("name", ["whole.zarr", "whole.zip"])
@pytest.mark.parametrize("codec", ["context", "zstd"])
def test_a_store_is_recoded_in_its_place(smooth: Path, tmp_path: Path, name: str, codec: str) -> None:
    recode(tokenstore.open(smooth), open_storage(tmp_path / name), codec="bitpack")
    recode(tmp_path / name, codec=codec)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert tokenstore.open(tmp_path / name).manifest.features == (codec,)
    assert_same_samples(smooth, tmp_path / name)


def test_recoding_in_place_goes_on_after_a_crash_at_any_step(
    smooth: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stop once at every rename and every removal: after the next call the store is whole."""
    for method in ("rename", "unlink"):
        for stop_at in range(1, 60):
            target = tmp_path / f"{method}-{stop_at}" / "whole.zarr"
            recode(tokenstore.open(smooth), open_storage(target), codec="zstd")
            calls = 0
            plain = getattr(Path, method)

            def stopping(
                self: Path, *args: Any, plain: Any = plain, at: int = stop_at, **options: Any
            ) -> Any:
                nonlocal calls
                calls += 1
                if calls == at:
                    raise KeyboardInterrupt
                return plain(self, *args, **options)

            with monkeypatch.context() as patch:
                patch.setattr(Path, method, stopping)
                try:
                    recode(target, codec="bitpack")
                except KeyboardInterrupt:
                    stopped = True
                else:
                    stopped = False
            recode(target, codec="bitpack")
            assert [path.name for path in target.parent.iterdir()] == ["whole.zarr"]
            assert tokenstore.open(target).manifest.features == ("bitpack",)
            np.testing.assert_array_equal(
                tokenstore.open(target)["val"][:], tokenstore.open(smooth)["val"][:]
            )
            if not stopped:
                break
        assert not stopped, "every step was tried"


@pytest.mark.thorough
def test_a_recoding_that_was_stopped_goes_on_with_the_model_it_had(smooth: Path, tmp_path: Path) -> None:
    def stop(what: str, done: int, total: int) -> None:
        if what == "train, rewriting" and done == 192:
            raise KeyboardInterrupt

    def refuse(what: str, done: int, total: int) -> None:
        assert "fitting" not in what, "a model was fitted again"

    store, target = tokenstore.open(smooth), open_storage(tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        recode(store, target, codec="context", shard_samples=96, on_progress=stop)
    with pytest.raises(StoreExistsError, match="resume=True"):
        recode(store, target, codec="context", shard_samples=96)
    with pytest.raises(ConversionError, match="codec was 'context', is now 'zstd'"):
        recode(store, target, codec="zstd", shard_samples=96, resume=True)
    with pytest.raises(ConversionError, match=r"min_decode_rate was 1000\.0, is now 7"):
        recode(store, target, codec="context", shard_samples=96, min_decode_rate=7, resume=True)
    recode(store, target, codec="context", shard_samples=96, resume=True, on_progress=refuse)
    recode(store, open_storage(tmp_path / "whole"), codec="context", shard_samples=96)
    one, other = (StoreFiles(tmp_path / name).manifest for name in ("out", "whole"))
    assert one == other, "the same bytes as in one go"
    assert_same_samples(smooth, tmp_path / "out")


def test_a_damaged_store_is_not_recoded(smooth: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(smooth, damaged)
    shard = damaged / "train/tokens/c/1/0/0"
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    for codec in ("context", "zstd", "auto"):
        with pytest.raises(DamageError, match="CRC-32C"):
            recode(tokenstore.open(damaged), open_storage(tmp_path / codec), codec=codec)
        assert not (tmp_path / codec / "zarr.json").exists()


def test_what_does_not_decode_to_the_same_codes_is_not_written(
    smooth: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Context.encode
    monkeypatch.setattr(Context, "encode", lambda self, rows, *rest: plain(self, np.flip(rows, 0), *rest))
    with pytest.raises(CodecError, match="does not decode to the same codes"):
        recode(tokenstore.open(smooth), open_storage(tmp_path / "out"), codec="context")
    assert not (tmp_path / "out/train/tokens/c").exists()


def test_an_unknown_codec_is_refused(smooth: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="expected a codec of bitpack, context, zstd, auto, found 'gzip'"):
        recode(tokenstore.open(smooth), open_storage(tmp_path / "out"), codec="gzip")


def test_only_local_stores_are_recoded_in_place() -> None:
    with pytest.raises(StoreError, match="expected a local store"):
        recode("memory://somewhere.zarr")


def test_a_leftover_of_another_store_does_not_take_the_place_of_this_one(
    smooth: Path, tmp_path: Path
) -> None:
    write_store(tmp_path / "other.zarr", {"train": (np.zeros((3, 12, 12), np.uint8),)}, 30, codec="bitpack")
    stopped_before_the_exchange(tmp_path / "other.zarr")
    shutil.rmtree(tmp_path / "other.zarr")
    left = tmp_path / ".whole.zarr.in-place"
    (tmp_path / ".other.zarr.in-place").rename(left)
    marker = (left / IN_PLACE_MARKER).read_text().replace("other.zarr", "whole.zarr")
    (left / IN_PLACE_MARKER).write_text(marker)
    recode(tokenstore.open(smooth), open_storage(tmp_path / "whole.zarr"), codec="bitpack")
    recode(tmp_path / "whole.zarr", codec="zstd")
    assert_same_samples(smooth, tmp_path / "whole.zarr")


def stopped_before_the_exchange(store: Path, codec: str = "zstd") -> None:
    """Recode in place up to the moment at which the new store is whole, and stop."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tokenstore.writing.in_place.exchange", stop)
        with pytest.raises(KeyboardInterrupt):
            recode(store, codec=codec)


def test_a_leftover_of_another_recoding_is_not_taken_for_this_one(smooth: Path, tmp_path: Path) -> None:
    target = tmp_path / "whole.zarr"
    recode(tokenstore.open(smooth), open_storage(target), codec="context")
    stopped_before_the_exchange(target, "bitpack")
    assert tokenstore.open(tmp_path / ".whole.zarr.in-place/new").manifest.features == ("bitpack",)
    recode(target, codec="zstd")
    assert [path.name for path in tmp_path.iterdir()] == ["whole.zarr"]
    assert tokenstore.open(target).manifest.features == ("zstd",)
    assert_same_samples(smooth, target)


@pytest.mark.thorough
def test_damage_to_streams_is_found_and_never_gives_a_wrong_code(smooth: Path, tmp_path: Path) -> None:
    target = tmp_path / "coded"
    recode(tokenstore.open(smooth), open_storage(target), codec="context", shard_samples=96)
    expected = tokenstore.open(target)["train"][:]
    shard = target / "train/tokens/c/1/0/0"
    intact = shard.read_bytes()
    random = np.random.default_rng(0)
    for _ in range(200):
        data = bytearray(intact)
        data[random.integers(len(data))] ^= 1 << random.integers(8)
        shard.write_bytes(data)
        try:
            codes = tokenstore.open(target)["train"].read("tokens", [95, 96, 150, 191])
        except DamageError:
            codes = expected[[95, 96, 150, 191]]
        np.testing.assert_array_equal(codes, expected[[95, 96, 150, 191]])
        assert any("train/tokens/c/1" in problem for problem in verify(target).problems)
    shard.write_bytes(intact)
    assert verify(target).ok


@pytest.mark.thorough
def test_stats_count_a_context_model_with_the_codes_and_as_what_does_not_grow(
    smooth: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.import_module("tokenstore.audit.stats"), "LEAST_PROJECTED", 1)
    recode(tokenstore.open(smooth), open_storage(tmp_path / "coded"), codec="context")
    store = tokenstore.open(tmp_path / "coded")
    result = stats(store)
    models = sum(store.manifest.files[f"{split}/tokens/zarr.json"].size for split in store.splits)
    assert result.nbytes_by_part["context model"] == models
    assert sum(result.nbytes_by_part.values()) == result.nbytes == store.files.nbytes
    shards = sum(r.size for path, r in store.manifest.files.items() if "/tokens/" in path)
    assert sum(split.tokens_nbytes for split in result.splits.values()) == shards
    fixed = models + result.nbytes_by_part["codebook"] + result.nbytes_by_part["synonyms"]
    grown = (result.nbytes - fixed) / result.samples * 10**6
    assert result.million_nbytes == fixed + round(grown)
