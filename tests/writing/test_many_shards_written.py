"""Stores of many shards, whose root lists neither them nor one table of all samples (M28 and M29)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.stores import Samples, contents, few_are_many, random_codes, write_store

import tokenstore
from tokenstore.audit.verify import verify
from tokenstore.format import Skip
from tokenstore.format.manifest import Manifest
from tokenstore.storage import open_storage
from tokenstore.storage.local import LocalFolder

CODES = random_codes(21, (2, 3), 391)
LABELS = (np.arange(21) % 3).astype(np.int32)
SPLITS = {"train": Samples(CODES, LABELS, skipped=[Skip(4, "train/4.png", "no image")]), "val": (CODES[:3],)}


def written(target: Any, **spec: Any) -> Manifest:
    settings = {"chunk_samples": 2, "shard_samples": 4, "class_names": ("a", "b", "c"), **spec}
    return write_store(target, SPLITS, **settings)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a store whose training split has many shards, and whose other split has one."""
    folder = tmp_path_factory.mktemp("large")
    with few_are_many():
        written(folder / "a.zarr")
    written(folder / "small.zarr")
    return folder / "a.zarr"


def test_every_file_of_a_store_of_few_shards_is_as_it_was_and_many_differ_in_lists_and_tables_alone(
    large: Path,
) -> None:
    few, many = contents(large.with_name("small.zarr")), contents(large)
    lists = {"train/tokens/shards.bin", "train/labels/shards.bin"}
    parts = {f"train/samples.parquet/00000{part}.parquet" for part in range(3)}
    assert few.keys() - many.keys() == {"train/samples.parquet"}
    assert many.keys() - few.keys() == lists | parts
    assert {path for path in few.keys() & many.keys() if few[path] != many[path]} == {"zarr.json"}
    assert tokenstore.open(large.with_name("small.zarr")).manifest.features == ("bitpack",)
    assert not any(
        "/c/" in path for path in tokenstore.open(large).manifest.files if path.startswith("train")
    )


@pytest.mark.parametrize("place", ["a.zarr", "a.zip", "memory"])
def test_a_reader_an_auditor_and_a_copy_of_many_shards_see_what_those_of_few_do(
    large: Path, tmp_path: Path, memory_url: str, place: str
) -> None:
    store = memory_url if place == "memory" else str(tmp_path / place)
    with few_are_many():
        written(open_storage(store))
    found = verify(store)
    assert (found.problems, found.notes) == ([], [])
    few, many = tokenstore.open(large.with_name("small.zarr")), tokenstore.open(store)
    assert found.files == many.files.files == len(contents(large))
    assert found.nbytes == many.files.nbytes == sum(map(len, contents(large).values()))
    for split in few.splits:
        np.testing.assert_array_equal(many[split][:], few[split][:])
        assert many[split].samples_table().equals(few[split].samples_table())
    arrays = [tokenstore.info(each).to_dict()["arrays"] for each in (store, large.with_name("small.zarr"))]
    lists = {name: 40 * 6 if name.startswith("train") else 0 for name in arrays[0]}
    assert [{**array, "nbytes": array["nbytes"] - lists[name]} for name, array in arrays[0].items()] == [
        *arrays[1].values()
    ]
    tokenstore.copy(store, tmp_path / "copy")
    assert contents(tmp_path / "copy") == contents(large)
    assert tokenstore.stats(store).nbytes == found.nbytes


@pytest.mark.parametrize("codec", ["zstd", "context"])
def test_many_shards_are_recoded_elsewhere_and_in_their_place(
    large: Path, tmp_path: Path, codec: str
) -> None:
    tokenstore.copy(large, tmp_path / "own.zarr")
    with few_are_many():
        tokenstore.recode(large, tmp_path / "b.zarr", codec=codec, shard_samples=64)
        tokenstore.recode(
            large, tmp_path / "c.zarr", codec=codec, shard_samples=64 if codec == "zstd" else None
        )
        tokenstore.recode(tmp_path / "own.zarr", codec=codec)
    for name in ("b.zarr", "c.zarr", "own.zarr"):
        assert verify(tmp_path / name).problems == []
        np.testing.assert_array_equal(tokenstore.open(tmp_path / name)["train"][:], CODES)


@pytest.mark.parametrize("place", ["a.zarr", "memory"])
def test_a_conversion_of_many_shards_killed_at_any_write_goes_on_to_the_same_bytes(
    tmp_path: Path, memory_url: str, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    np.save(tmp_path / "codes.npy", CODES)
    options: dict[str, Any] = {"chunk_samples": 2, "shard_samples": 4}
    with few_are_many():
        tokenstore.convert(tmp_path / "codes.npy", tmp_path / "whole", **options)
        kind = type(open_storage(memory_url if place == "memory" else tmp_path / place))
        for number in range(1, 100, 4):
            target = f"{memory_url}/{number}" if place == "memory" else str(tmp_path / str(number) / place)
            with monkeypatch.context() as patch:
                dying = stop_at(patch, kind, number)
                try:
                    tokenstore.convert(tmp_path / "codes.npy", target, **options)
                except KeyboardInterrupt:
                    pass
                else:
                    assert not dying()
                    break
            tokenstore.convert(tmp_path / "codes.npy", target, **options, resume=True)
            there = open_storage(target)
            assert {path: there.read(path) for path in there.files()} == contents(tmp_path / "whole"), number
    assert number > 20


def stop_at(patch: pytest.MonkeyPatch, kind: type, number: int) -> Callable[[], bool]:
    """Let every write of a kind of storage from the number-th on fail; return whether one has."""
    done = 0

    def failing(plain: Callable[..., Any]) -> Callable[..., Any]:
        def write(*arguments: Any) -> Any:
            nonlocal done
            done += 1
            if done >= number:
                raise KeyboardInterrupt
            return plain(*arguments)

        return write

    names = ["create", "write_ahead", "settle"] if kind is LocalFolder else ["create"]
    for name in [*names, "write"]:
        patch.setattr(kind, name, failing(getattr(kind, name)))
    if kind is LocalFolder:
        plain = failing(tokenstore.files.append_file)
        patch.setattr("tokenstore.writing.journal.append_file", plain)
    return lambda: done >= number


def test_a_part_of_the_table_is_written_with_its_last_shard_and_its_rows_are_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, set[str]]] = []
    plain = LocalFolder.write_ahead

    def noted(storage: LocalFolder, path: str, data: bytes) -> None:
        plain(storage, path, data)
        if path.startswith("train/tokens"):
            files = {path for path in contents(tmp_path / "a") if "samples" in path or "/rows-" in path}
            seen.append((int(path.split("/")[3]), files))

    monkeypatch.setattr(LocalFolder, "write_ahead", noted)
    with few_are_many():
        written(tmp_path / "a")
    parts = [f"train/samples.parquet/00000{part}.parquet" for part in range(2)]
    assert dict(seen[:6]) == {
        0: set(),
        1: {".partial/train/rows-0"},
        2: {parts[0]},
        3: {parts[0], ".partial/train/rows-2"},
        4: {*parts},
        5: {*parts, ".partial/train/rows-4"},
    }


def test_the_root_of_many_shards_does_not_grow_with_them(tmp_path: Path) -> None:
    sizes = []
    for shards in (40, 400):
        codes = random_codes(shards, (2,), 9)
        with few_are_many(PART_SHARDS=1000):
            write_store(tmp_path / str(shards), {"train": (codes,)}, 9, chunk_samples=1, shard_samples=1)
        sizes.append((tmp_path / str(shards) / "zarr.json").stat().st_size)
        assert json.loads((tmp_path / str(shards) / "zarr.json").read_bytes())
    assert sizes[1] - sizes[0] < 50
