"""Passes over whole stores by executors: whoever works on the blocks, the store is the same to the byte."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Generator, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.brightness import BrightnessTokenizer, write_grey_folder
from helpers.grey_conversions import OPTIONS, StoppedError
from helpers.stores import Samples, contents, write_store

import tokenstore
from tokenstore.conversion import LocalExecutor, convert_source
from tokenstore.errors import ArgumentError
from tokenstore.sources import open_source
from tokenstore.storage import open_storage
from tokenstore.writing import encoded, prune
from tokenstore.writing.blocks import Block, BlockTask, reachable
from tokenstore.writing.prune import codes_that_occur, prune_codebook

pytestmark = pytest.mark.usefixtures("quick_fits")


class Elsewhere(LocalExecutor):
    """An executor of blocks that are worked on as in other processes, now and then twice."""

    def __init__(self, reaches: bool = True) -> None:
        super().__init__()
        self.reaches = reaches
        self.done: list[Block] = []

    def blocks(self, task: BlockTask[Any], blocks: Iterable[Block]) -> Generator[Any, None, None]:
        there = pickle.loads(pickle.dumps(task))
        own, other = task.reader(1), there.reader(1)
        assert reachable(there.stores) == frozenset(range(len(task.stores)))
        for block in blocks:
            request = pickle.loads(pickle.dumps((block, None if self.reaches else own.read(block))))
            for _ in range(1 + len(self.done) % 2):
                result = there(request[0], other.read(request[0]) if self.reaches else request[1])
            self.done.append(block)
            yield pickle.loads(pickle.dumps(result))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a shard have several pieces, and a store be counted in several blocks."""
    monkeypatch.setattr(encoded, "_PIECE_NBYTES", 200)
    monkeypatch.setattr(prune, "_BLOCK_CODES", 100)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    codes = (rng.integers(0, 30, (200, 2, 3, 3)) ** 2 % 600).astype(np.uint16)
    labels = rng.integers(0, 3, 200).astype(np.int32)
    path = tmp_path_factory.mktemp("store") / "store"
    content = {"train": Samples(codes, labels, {}), "val": Samples(codes[:30], labels[:30], {})}
    write_store(path, content, (600, 700), chunk_samples=16, shard_samples=96)
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_grey_folder(folder / "train", 9)
    write_grey_folder(folder / "val", 2)
    (folder / "train/class-1/006.png").write_bytes(b"")
    return folder


@pytest.mark.parametrize(("codec", "reaches"), [("zstd", True), ("bitpack", False)])
def test_a_store_recoded_elsewhere_has_the_bytes_of_threads(
    tmp_path: Path, store: Path, codec: str, reaches: bool
) -> None:
    executor = Elsewhere(reaches)
    settings: dict[str, Any] = {"codec": codec, "shard_samples": 64}
    tokenstore.recode(store, tmp_path / "alone", **settings)
    tokenstore.recode(store, tmp_path / "out", **settings, executor=executor)
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")
    assert len(executor.done) > 10


def test_a_store_recoded_in_its_place_elsewhere_has_the_bytes_of_threads(tmp_path: Path, store: Path) -> None:
    for name, executor in (("a", None), ("b", Elsewhere())):
        shutil.copytree(store, tmp_path / name)
        tokenstore.recode(tmp_path / name, codec="zstd", executor=executor)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_codes_counted_elsewhere_are_those_that_occur(tmp_path: Path, store: Path) -> None:
    opened, executor = tokenstore.open(store), Elsewhere()
    for plane, codes in enumerate(codes_that_occur(opened, executor)):
        assert codes.tolist() == np.unique(opened["train"][:][:, plane]).tolist()
    assert len(executor.done) > 10
    for name, where in (("a", None), ("b", executor)):
        prune_codebook(opened, open_storage(tmp_path / name), shard_samples=64, executor=where)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def converted(images: Path, out: Path, executor: LocalExecutor | None = None, **settings: Any) -> None:
    options = replace(OPTIONS, on_error="skip", **settings)
    convert_source(
        open_source(images), out, tokenizer=BrightnessTokenizer(), options=options, executor=executor
    )


@pytest.mark.parametrize(
    "settings", [{"codec": "context"}, {"codec": "auto", "min_decode_rate": 0}, {"prune_codebook": True}]
)
def test_the_second_pass_of_a_conversion_is_the_executors(
    tmp_path: Path, images: Path, settings: dict[str, Any]
) -> None:
    executor = Elsewhere()
    converted(images, tmp_path / "alone", **settings)
    converted(images, tmp_path / "out", executor, **settings)
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")
    assert executor.done


def test_parts_merged_elsewhere_have_the_bytes_of_one_conversion(tmp_path: Path, images: Path) -> None:
    converted(images, tmp_path / "whole", prune_codebook=True)
    parts = [tmp_path / f"part-{number}" for number in (1, 2, 3)]
    for number, part in enumerate(parts, 1):
        converted(images, part, part=(number, 3), prune_codebook=True)
    executor = Elsewhere()
    tokenstore.merge(tmp_path / "out", parts, executor=executor)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert {block.array for block in executor.done} == {"tokens", "labels"}


def merged_wholes(folder: Path) -> list[Path]:
    """Write stores that share no cut but that of their first shards, and number classes otherwise."""
    codes = np.random.default_rng(1).integers(0, 390, (100, 2, 2))
    stores = [folder / name for name in ("one", "two", "three")]
    for store, rows, names in zip(
        stores,
        (slice(0, 40), slice(40, 57), slice(57, 100)),
        (("ant", "bee", "cat"), ("cat", "ant", "dog"), ("ant", "bee", "cat")),
        strict=True,
    ):
        labels = (np.arange(100) % 3).astype(np.int32)[rows]
        content = {"train": Samples(codes[rows], labels, {"score": np.arange(100.0)[rows]})}
        write_store(store, content, 391, class_names=names, chunk_samples=4, shard_samples=32)
    return stores


@pytest.mark.parametrize("reaches", [True, False])
def test_whole_stores_merged_elsewhere_have_the_bytes_of_threads(tmp_path: Path, reaches: bool) -> None:
    stores, executor = merged_wholes(tmp_path), Elsewhere(reaches)
    tokenstore.merge(tmp_path / "alone", stores)
    tokenstore.merge(tmp_path / "out", stores, executor=executor)
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")
    first = tmp_path / "out" / "train/tokens/c/0/0/0"
    assert first.stat().st_nlink > 1, "a shard that stays the same is linked"
    tokens = [block for block in executor.done if block.array == "tokens"]
    assert min(block.start for block in tokens) == 32
    assert {block.array for block in executor.done} == {"tokens", "labels", "score"}


def test_a_merge_of_whole_stores_that_an_executor_began_is_finished_by_threads(tmp_path: Path) -> None:
    def stop(step: str, done: int, total: int) -> None:
        if done >= 64:
            raise StoppedError

    stores, executor = merged_wholes(tmp_path), Elsewhere()
    tokenstore.merge(tmp_path / "alone", stores)
    with pytest.raises(StoppedError):
        tokenstore.merge(tmp_path / "out", stores, executor=Elsewhere(), on_progress=stop)
    tokenstore.merge(tmp_path / "out", stores, executor=executor, resume=True)
    assert min(block.start for block in executor.done) == 64
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")


def test_a_pass_that_an_executor_began_is_finished_by_threads(tmp_path: Path, store: Path) -> None:
    def stop(step: str, done: int, total: int) -> None:
        if done >= 128:
            raise StoppedError

    settings: dict[str, Any] = {"codec": "zstd", "shard_samples": 64}
    tokenstore.recode(store, tmp_path / "alone", **settings)
    with pytest.raises(StoppedError):
        tokenstore.recode(store, tmp_path / "out", **settings, executor=Elsewhere(), on_progress=stop)
    executor = Elsewhere()
    tokenstore.recode(store, tmp_path / "out", **settings, executor=executor, resume=True)
    assert min(block.start for block in executor.done if block.split == "train") == 128
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")


def test_a_store_that_is_elsewhere_or_another_by_now_is_not_reached(tmp_path: Path, store: Path) -> None:
    for name in ("a", "b", "c"):
        shutil.copytree(store, tmp_path / name)
    stores = [tokenstore.open(tmp_path / name).files for name in ("a", "b", "c")]
    shutil.rmtree(tmp_path / "b")
    root = (tmp_path / "c" / "zarr.json").read_bytes()
    (tmp_path / "c" / "zarr.json").write_bytes(root + b" ")
    assert reachable(stores) == frozenset({0})


def test_jobs_beside_an_executor_are_refused(tmp_path: Path, store: Path) -> None:
    for call in (
        lambda: tokenstore.recode(store, tmp_path / "out", jobs=2, executor=Elsewhere()),
        lambda: tokenstore.merge(tmp_path / "out", [store], jobs=2, executor=Elsewhere()),
    ):
        with pytest.raises(ArgumentError, match="jobs: expected none beside an executor"):
            call()
    assert not (tmp_path / "out").exists()
