"""A copied store has the bytes of the one it came from, wherever it goes and whatever happens on the way."""

from __future__ import annotations

import importlib
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from helpers.growth import start_tracing, stop_tracing
from helpers.stores import random_codes, write_store
from tokenstore_cli.main import cli

import tokenstore
from tokenstore.audit.verify import verify
from tokenstore.errors import (
    ArgumentError,
    ConversionError,
    DamageError,
    IncompleteStoreError,
    NotAStoreError,
    StoreChangedError,
    StoreExistsError,
)
from tokenstore.reading import StoreFiles, TokenStore
from tokenstore.storage import STAGING, Storage, open_storage
from tokenstore.storage.local import LocalFolder
from tokenstore.writing.copy import copy

copy_module = importlib.import_module("tokenstore.writing.copy")
SHARD = "train/tokens/c/1/0/0"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a store of three shards with labels."""
    path = tmp_path_factory.mktemp("source") / "a.zarr"
    splits = {"train": (random_codes(10, (4, 4), 391), np.arange(10, dtype=np.int32))}
    write_store(path, splits, chunk_samples=2, shard_samples=4)
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a store of one shard."""
    path = tmp_path_factory.mktemp("small") / "a.zarr"
    write_store(path, {"train": (random_codes(3, (2,), 9),)}, 9)
    return path


def contents(storage: Storage | str | Path) -> dict[str, bytes]:
    storage = storage if isinstance(storage, Storage) else open_storage(storage)
    return {path: storage.read(path) for path in storage.files()}


def copied(source: str | Path | Storage, target: str | Path | Storage, **options: Any) -> None:
    opened = source if isinstance(source, Storage) else open_storage(source)
    copy(
        TokenStore(StoreFiles(opened)),
        target if isinstance(target, Storage) else open_storage(target),
        **options,
    )


@pytest.fixture(params=["folder", "zip", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path, memory_url: str) -> str:
    places = {"folder": str(tmp_path / "b"), "zip": str(tmp_path / "b.zip"), "memory": memory_url}
    return places[request.param]


@pytest.mark.parametrize("kind", ["folder", "zip", "memory"])
def test_a_copy_has_the_store_s_files_with_their_bytes_and_no_others(
    store: Path, place: str, kind: str, tmp_path: Path
) -> None:
    source = str(store)
    if kind != "folder":
        source = str(tmp_path / "source.zip") if kind == "zip" else f"memory://{tmp_path.name}/source"
        copied(store, source)
    told: list[tuple[int, int]] = []
    copied(source, place, on_progress=lambda done, total: told.append((done, total)))
    assert contents(place) == contents(store)
    assert verify(place).problems == []
    assert told[-1] == (tokenstore.open(store).files.nbytes,) * 2
    open_storage(f"memory://{tmp_path.name}").remove("source")


def test_what_is_not_in_the_manifest_stays_behind(small: Path, tmp_path: Path) -> None:
    copied(small, tmp_path / "a")
    (tmp_path / "a" / "stranger").write_text("not the store's")
    (tmp_path / "a" / STAGING).mkdir()
    (tmp_path / "a" / STAGING / "left").write_text("over")
    copied(tmp_path / "a", tmp_path / "b")
    assert contents(tmp_path / "b") == contents(small)


@pytest.mark.parametrize("change", ["flipped", "shortened", "missing"])
@pytest.mark.parametrize("path", [SHARD, "train/samples.parquet", "train/zarr.json"])
def test_a_damaged_source_is_named_and_nothing_is_complete(
    store: Path, tmp_path: Path, path: str, change: str
) -> None:
    copied(store, tmp_path / "a")
    file = tmp_path / "a" / path
    data = file.read_bytes()
    if change == "missing":
        file.unlink()
    else:
        file.write_bytes(data[:-1] if change == "shortened" else bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(DamageError, match=rf"a/{path}: .*Restore"):
        copied(tmp_path / "a", tmp_path / "b")
    assert path not in contents(tmp_path / "b")
    with pytest.raises(IncompleteStoreError):
        tokenstore.open(tmp_path / "b")
    file.write_bytes(data)
    copied(tmp_path / "a", tmp_path / "b", resume=True)
    assert contents(tmp_path / "b") == contents(store)


def test_a_root_that_changes_meanwhile_is_damage(small: Path, tmp_path: Path) -> None:
    copied(small, tmp_path / "a")
    opened = tokenstore.open(tmp_path / "a")
    (tmp_path / "a" / "zarr.json").write_bytes((small / "zarr.json").read_bytes() + b" ")
    with pytest.raises(DamageError, match=r"a/zarr.json: expected"):
        copy(opened, open_storage(tmp_path / "b"))
    with pytest.raises(IncompleteStoreError):
        tokenstore.open(tmp_path / "b")


@pytest.mark.parametrize("how", ["replaced", "removed"])
def test_a_store_that_changes_just_before_its_root_is_copied_is_not_damaged(
    store: Path, small: Path, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied(small, tmp_path / "a")
    check = StoreFiles.check_unchanged

    def check_then_change(self: StoreFiles) -> None:
        check(self)
        if (tmp_path / "a").exists():
            (tmp_path / "a").rename(tmp_path / "old")
            if how == "replaced":
                copytree(store, tmp_path / "a")

    with monkeypatch.context() as patch:
        patch.setattr(StoreFiles, "check_unchanged", check_then_change)
        patch.setattr(StoreFiles, "rule_out_change", check)
        with pytest.raises(StoreChangedError, match="changed since it was opened"):
            copied(tmp_path / "a", tmp_path / "b")
    with pytest.raises(IncompleteStoreError):
        tokenstore.open(tmp_path / "b")


@pytest.mark.parametrize("times", [1, 2])
def test_what_reads_back_otherwise_is_written_again_once(
    small: Path, tmp_path: Path, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = LocalFolder.move_into_place
    left = [times]

    def spoil(self: LocalFolder, finished: Path, path: str) -> None:
        if path.endswith("c/0/0") and left[0]:
            left[0] -= 1
            finished.write_bytes(b"x" * finished.stat().st_size)
        really(self, finished, path)

    monkeypatch.setattr(LocalFolder, "move_into_place", spoil)
    if times == 1:
        copied(small, tmp_path / "b")
        assert contents(tmp_path / "b") == contents(small)
    else:
        with pytest.raises(DamageError, match="b/train/tokens/c/0/0: expected"):
            copied(small, tmp_path / "b")


def test_whatever_is_in_the_way_stays_as_it_was(store: Path, small: Path, place: str, tmp_path: Path) -> None:
    copied(small, place)
    before = contents(place)
    for resume in (False, True):
        with pytest.raises(StoreExistsError, match=r"remove it|Choose another path"):
            copied(store, place, resume=resume)
    copied(small, place, resume=True)
    assert contents(place) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(StoreExistsError, match="something is already there"):
        copied(store, tmp_path / "mine", resume=True)
    assert contents(tmp_path / "mine") == {"thesis.txt": b"years"}


class StoppedError(Exception):
    """The interruption of a copy in these tests."""


@pytest.mark.parametrize("name", ["b", "b.zip", "memory"])
def test_a_copy_stopped_anywhere_is_no_store_and_goes_on(
    store: Path, tmp_path: Path, memory_url: str, name: str
) -> None:
    steps: list[int] = []
    copied(store, tmp_path / "whole", on_progress=lambda done, _: steps.append(done))
    for step in range(len(steps) - 1):
        place = f"{memory_url}/{step}" if name == "memory" else str(tmp_path / str(step) / name)
        calls = []

        def stop(*_: int, step: int = step, calls: list[int] = calls) -> None:
            calls.append(0)
            if len(calls) > step:
                raise StoppedError

        with pytest.raises(StoppedError):
            copied(store, place, on_progress=stop)
        with pytest.raises((IncompleteStoreError, NotAStoreError)):
            tokenstore.open(place)
        copied(store, place, resume=True)
        assert contents(place) == contents(store)


def test_resuming_keeps_what_is_whole_and_writes_the_rest(store: Path, tmp_path: Path) -> None:
    left = unfinished(store, tmp_path / "b")
    whole, wrong = left[0], left[1]
    (tmp_path / "b" / wrong).write_bytes(b"wrong")
    kept = (tmp_path / "b" / whole).stat().st_ino
    with pytest.raises(StoreExistsError, match="unfinished conversion is there"):
        copied(store, tmp_path / "b")
    copied(store, tmp_path / "b", resume=True)
    assert contents(tmp_path / "b") == contents(store)
    assert (tmp_path / "b" / whole).stat().st_ino == kept


def test_only_the_same_copy_is_gone_on_with(store: Path, small: Path, tmp_path: Path) -> None:
    unfinished(store, tmp_path / "b")
    with pytest.raises(ConversionError, match="cannot resume with other inputs: copied was"):
        copied(small, tmp_path / "b", resume=True)
    (tmp_path / "b" / "thesis.txt").write_text("years")
    with pytest.raises(StoreExistsError, match=r"found thesis.txt"):
        copied(store, tmp_path / "b", resume=True)


def unfinished(store: Path, target: Path) -> list[str]:
    """Leave a copy that lacks one file and the root; the files that are there."""
    before_root = tokenstore.open(store).files.nbytes - (store / "zarr.json").stat().st_size

    def stop(done: int, _: int) -> None:
        if done == before_root:
            raise StoppedError

    with pytest.raises(StoppedError):
        copied(store, target, on_progress=stop)
    return sorted(path for path in contents(target) if not path.startswith(STAGING))


def test_two_copies_to_one_folder_do_not_mix(store: Path, tmp_path: Path) -> None:
    def again(*_: int) -> None:
        with pytest.raises(ConversionError, match="another process is writing"):
            copied(store, tmp_path / "b", resume=True)
        raise StoppedError

    with pytest.raises(StoppedError):
        copied(store, tmp_path / "b", on_progress=again)


def test_a_large_shard_goes_through_in_blocks(tmp_path: Path) -> None:
    write_store(tmp_path / "a", {"train": (random_codes(3300, (100, 100), 256),)}, 256)
    assert tokenstore.open(tmp_path / "a").files.nbytes > 33e6
    start_tracing()
    try:
        copied(tmp_path / "a", tmp_path / "b")
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        stop_tracing()


def run(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def test_the_command_copies_and_says_so(store: Path, tmp_path: Path) -> None:
    result = run("copy", store, tmp_path / "b.zip")
    assert (result.exit_code, result.output.count("\n")) == (0, 1)
    files = len(contents(store))
    assert result.output.startswith(f"{tmp_path / 'b.zip'}: {files} files, ")
    assert "verified" in result.output
    again = run("copy", store, tmp_path / "b.zip")
    assert (again.exit_code, again.output.count("\n")) == (1, 1)
    assert run("copy", store, tmp_path / "b.zip", "--resume").exit_code == 0


def test_any_number_of_files_is_under_way_but_no_more(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    under_way, most, lock = 0, 0, threading.Lock()
    plain = copy_module.copy_file

    def counted(*arguments: Any) -> None:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        plain(*arguments)
        with lock:
            under_way -= 1

    monkeypatch.setattr(copy_module, "copy_file", counted)
    for jobs in (1, 3):
        tokenstore.copy(store, tmp_path / f"{jobs}", jobs=jobs)
        assert most <= jobs
        assert contents(tmp_path / f"{jobs}") == contents(store)
    with pytest.raises(ArgumentError, match="jobs: expected 1 or more, found 0"):
        tokenstore.copy(store, tmp_path / "none", jobs=0)


def test_no_store_is_written_into_the_folder_of_another(small: Path, tmp_path: Path) -> None:
    tokenstore.copy(small, tmp_path / "a")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    out, before = tmp_path / "link" / "deep" / "out", contents(tmp_path / "a")
    operations: list[Callable[[], object]] = [
        lambda: tokenstore.copy(small, out),
        lambda: tokenstore.select(small, out, where="row == 0"),
        lambda: tokenstore.merge(out, [small, small]),
        lambda: tokenstore.recode(small, out, codec="zstd"),
        lambda: tokenstore.write(out, [[1, 2]], codebook_size=9),
        lambda: tokenstore.export(small, out, to="npy"),
    ]
    for operation in operations:
        with pytest.raises(ArgumentError, match=r"inside of the store .*a\. Choose another path"):
            operation()
    assert contents(tmp_path / "a") == before
