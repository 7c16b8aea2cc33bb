"""Recoding in place: the store's path has the old store or the new one, whole, whatever happens meanwhile."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.stores import contents, random_codes, write_store
from tokenstore_cli.main import cli

import tokenstore
from tokenstore.audit.verify import verify
from tokenstore.errors import (
    ConversionError,
    IncompleteStoreError,
    StorageError,
    StoreChangedError,
    StoreError,
    StoreExistsError,
)
from tokenstore.files import exchange
from tokenstore.locks import PlaceLock
from tokenstore.storage import open_storage
from tokenstore.writing import in_place
from tokenstore.writing.copy import copy
from tokenstore.writing.recode import recode

CODES = random_codes(6, (2, 2), 391)


def written(path: Path) -> Path:
    write_store(path, {"train": (CODES,)}, chunk_samples=2, shard_samples=4)
    return path


def assert_whole(path: Path, codec: str) -> None:
    """Check that a store has the codes, in a codec, and that nothing else is in its folder."""
    found = verify(path)
    assert (found.problems, found.notes) == ([], [])
    store = tokenstore.open(path)
    assert store.manifest.features == (codec,)
    np.testing.assert_array_equal(store["train"][:], CODES)
    assert [other.name for other in path.parent.iterdir()] == [path.name]


@pytest.fixture(params=["exchange", "two renames"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Exchange folders at once, or as systems do that cannot."""
    if request.param == "two renames":
        monkeypatch.setattr(in_place, "exchange", lambda *_: False)
    return str(request.param)


def meanwhile(monkeypatch: pytest.MonkeyPatch, name: str, call: Callable[[], object]) -> None:
    """Call a function once, before a step of the next operation in place."""
    plain = getattr(in_place, name)

    def step(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(in_place, name, plain)
        call()
        return plain(*arguments, **options)

    monkeypatch.setattr(in_place, name, step)


@pytest.mark.parametrize("name", ["a.zarr", "a.zip"])
@pytest.mark.parametrize("step", ["own", "_digest", "read_back", "write_file"])
def test_a_second_recoding_meanwhile_is_refused_and_harms_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, step: str, way: str
) -> None:
    path = written(tmp_path / name)
    errors: list[str] = []

    def second() -> None:
        try:
            recode(path, codec="zstd", shard_samples=2)
        except ConversionError as error:
            errors.append(str(error))

    meanwhile(monkeypatch, step, second)
    recode(path, codec="zstd")
    assert_whole(path, "zstd")
    assert errors == ([] if step == "own" else [f"{path}: another process is writing this store"])


def test_whoever_writes_to_the_place_meanwhile_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    path, other = written(tmp_path / "a"), tmp_path / "other"
    written(other / "b")

    def writers() -> None:
        for resume in (False, True):
            with pytest.raises((ConversionError, StoreExistsError)):
                copy(other / "b", path, resume=resume)
        with pytest.raises(ConversionError, match="another process is writing this store"):
            written(path)

    meanwhile(monkeypatch, "read_back", writers)
    recode(path, codec="zstd")
    shutil.rmtree(other)
    assert_whole(path, "zstd")


@pytest.mark.parametrize("is_link", [False, True])
def test_killed_between_two_renames_every_reader_says_what_is_there_and_the_next_call_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_link: bool
) -> None:
    folder = tmp_path / "true"
    folder.mkdir()
    path = true = written(folder / "a")
    if is_link:
        path = tmp_path / "a"
        path.symlink_to(true)

    def killed() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(in_place, "exchange", lambda *_: False)
    meanwhile(monkeypatch, "rename", lambda: meanwhile(monkeypatch, "rename", killed))
    with pytest.raises(KeyboardInterrupt):
        recode(path, codec="zstd")
    assert not path.exists()
    for read in (tokenstore.open, verify, tokenstore.info, lambda path: copy(path, tmp_path / "b")):
        with pytest.raises(
            IncompleteStoreError, match=r"both are whole in .*\.a\.in-place\. Recode the store"
        ):
            read(path)
    for write in (written, lambda path: copy(written(tmp_path / "b"), path)):
        with pytest.raises(StoreExistsError, match="Repeat that first, or choose another path"):
            write(path)
    shutil.rmtree(tmp_path / "b")
    command = CliRunner().invoke(cli, ["info", str(path)])
    assert (command.exit_code, "Recode the store in its place again" in command.output) == (1, True)
    assert CliRunner().invoke(cli, ["recode", str(path), "--codec", "zstd"]).exit_code == 0
    assert_whole(true, "zstd")
    assert path.is_symlink() == is_link


def test_a_store_that_goes_while_it_is_verified_has_changed(tmp_path: Path) -> None:
    path = written(tmp_path / "a")

    def move_away(done: int, total: int) -> None:
        if done == total:
            path.rename(tmp_path / "between two renames")

    with pytest.raises(StoreChangedError, match="it was removed or is being replaced"):
        verify(path, on_progress=move_away)


def interrupt_between_renames(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Interrupt a recoding where the old store has its other name and the new one not yet its own."""

    def killed() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(in_place, "exchange", lambda *_: False)
    meanwhile(monkeypatch, "rename", lambda: meanwhile(monkeypatch, "rename", killed))
    with pytest.raises(KeyboardInterrupt):
        recode(path, codec="zstd")


def test_the_old_store_comes_back_where_the_new_one_is_not_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "a")
    interrupt_between_renames(monkeypatch, path)
    (tmp_path / ".a.in-place/new/zarr.json").write_bytes(b"")
    recode(path, codec="zstd")
    assert_whole(path, "zstd")


def test_neither_store_whole_is_one_error_and_nothing_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "a")
    interrupt_between_renames(monkeypatch, path)
    for name in ("new", "old"):
        (tmp_path / ".a.in-place" / name / "zarr.json").unlink()
    before = contents(tmp_path)
    with pytest.raises(StoreError, match="found none that is whole"):
        recode(path, codec="zstd")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("foreign", ["folder", "file", "link", "marker of another store"])
def test_a_foreign_folder_of_the_working_folder_s_name_is_left_alone(tmp_path: Path, foreign: str) -> None:
    path, left = written(tmp_path / "a"), tmp_path / ".a.in-place"
    if foreign == "file":
        left.write_text("years")
    elif foreign == "link":
        (tmp_path / "mine").mkdir()
        left.symlink_to(tmp_path / "mine")
    else:
        left.mkdir()
        (left / "thesis.txt").write_text("years")
        if foreign != "folder":
            (left / "operation.json").write_text('{"store": "b", "old": "0"}')
    before = contents(tmp_path)
    with pytest.raises(
        StoreError, match=r"\.a\.in-place: expected nothing, or what recoding .* Move it away"
    ):
        recode(path, codec="zstd")
    assert contents(tmp_path) == before


def test_the_only_copy_of_an_old_store_is_not_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "a")
    if not can_exchange(tmp_path):
        pytest.skip("this system cannot exchange two folders at once")

    def killed() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(in_place._InPlace, "_clear", lambda _: killed())
    with pytest.raises(KeyboardInterrupt):
        recode(path, codec="zstd")
    monkeypatch.undo()
    shutil.rmtree(path)
    write_store(path, {"train": (CODES[::-1],)})
    with pytest.raises(StoreError, match=r"found another, and the old one in .*\.a\.in-place"):
        recode(path, codec="zstd")
    np.testing.assert_array_equal(tokenstore.open(path)["train"][:], CODES[::-1])


def test_a_store_that_another_process_has_replaced_without_the_lock_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "a")

    def replaced() -> None:
        shutil.rmtree(path)
        shutil.copytree(tmp_path / "b", path)

    recode(path, tmp_path / "b", codec="zstd")
    meanwhile(monkeypatch, "read_back", replaced)
    with pytest.raises(ConversionError, match="another process has replaced the store since it was read"):
        recode(path, codec="zstd", shard_samples=2)
    shutil.rmtree(tmp_path / "b")
    assert_whole(path, "zstd")


def test_a_mount_point_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a")
    monkeypatch.setattr(os.path, "ismount", lambda path: str(path) == str(tmp_path / "a"))
    with pytest.raises(StoreError, match="a mount point cannot change places with another folder"):
        recode(path, codec="zstd")
    assert_whole(path, "bitpack")


def test_a_place_that_cannot_be_moved_keeps_its_store_and_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "a")

    def busy(*_: object) -> None:
        raise OSError(errno.EBUSY, "Device or resource busy")

    with monkeypatch.context() as patch:
        patch.setattr(in_place, "exchange", busy)
        with pytest.raises(
            StoreError, match=r"cannot be moved \(.*busy\). The new store is whole, at .*/new"
        ):
            recode(path, codec="zstd")
    np.testing.assert_array_equal(tokenstore.open(path)["train"][:], CODES)
    assert recode(path, codec="zstd").choice is None, "it was written already"
    assert_whole(path, "zstd")


def test_what_reads_back_otherwise_does_not_take_the_store_s_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "a")
    shard = tmp_path / ".a.in-place/new/train/tokens/c/0/0/0"
    meanwhile(monkeypatch, "read_back", lambda: shard.write_bytes(b"x"))
    with pytest.raises(ConversionError, match=r"reads back otherwise .* the store is as it was"):
        recode(path, codec="zstd")
    assert_whole(path, "bitpack")


def test_a_call_that_cannot_begin_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a")
    with monkeypatch.context() as patch:
        patch.setattr(in_place, "working_folder", lambda _: Path("/proc/nothing"))
        with pytest.raises(StorageError, match="expected room for the new store beside it"):
            recode(path, codec="zstd")
    with pytest.raises(StoreError, match="no codec decodes"):
        recode(path, codec="auto", min_decode_rate=1e15)
    with pytest.raises(StoreError, match="expected a codec of"):
        recode(path, codec="gzip")
    assert_whole(path, "bitpack")
    with pytest.raises(StoreError, match="no such file or folder"):
        recode(tmp_path / "deep" / "nothing", codec="zstd")
    assert_whole(path, "bitpack")


def can_exchange(folder: Path) -> bool:
    """Return True if the system exchanges two folders at once, and check that it did."""
    one, other = folder / "one", folder / "other"
    for path in (one, other):
        path.mkdir()
        (path / path.name).write_text("")
    exchanged = exchange(one, other)
    assert [path.name for path in one.iterdir()] == ["other" if exchanged else "one"]
    shutil.rmtree(one)
    shutil.rmtree(other)
    return exchanged


def test_an_exchange_is_one_step_or_says_that_it_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    if can_exchange(tmp_path):
        with pytest.raises(FileNotFoundError):
            exchange(tmp_path / "a", tmp_path / "nothing")


def test_a_store_whose_writer_was_killed_is_not_packed_over_another(tmp_path: Path) -> None:
    written(tmp_path / "a.zip.partial")
    (tmp_path / "a.zip.partial" / ".partial").mkdir()
    write_store(tmp_path / "b.zip", {"train": (CODES[::-1],)})
    (tmp_path / "b.zip").rename(tmp_path / "a.zip")
    with pytest.raises(StoreExistsError, match="found another"):
        copy(tmp_path / "a.zip.partial", tmp_path / "a.zip", resume=True)
    np.testing.assert_array_equal(tokenstore.open(tmp_path / "a.zip")["train"][:], CODES[::-1])


def test_a_split_may_have_any_name_beside_the_writer_s_own_files(tmp_path: Path) -> None:
    for split in ("scratch", "lock", "owner"):
        write_store(tmp_path / split, {split: (CODES,)})
        assert verify(tmp_path / split).ok


def test_a_folder_whose_parent_takes_no_files_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = written(tmp_path / "source")
    mount = tmp_path / "mount"
    plain = os.open

    def refusing(path: Any, flags: int, *mode: int, **options: Any) -> int:
        if str(path).startswith(f"{tmp_path}/.") and flags & os.O_CREAT:
            raise OSError(errno.EROFS, "read-only")
        return plain(path, flags, *mode, **options)

    monkeypatch.setattr(os, "open", refusing)
    for write in (written, lambda path: copy(source, path)):
        shutil.rmtree(mount, ignore_errors=True)
        mount.mkdir()
        write(mount)
        assert (verify(mount).problems, verify(mount).notes) == ([], [])
        with pytest.raises(StoreExistsError, match="something is already there"):
            write(mount)
    with pytest.raises(StorageError, match=r"nothing: cannot be written \(.*read-only\)"):
        written(tmp_path / "nothing")


def test_a_lock_is_held_until_the_last_file_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "a")
    plain, held = shutil.rmtree, []

    def removing(*arguments: Any, **options: Any) -> None:
        with pytest.raises(BlockingIOError):
            PlaceLock(path)
        held.append(arguments[0])
        plain(*arguments, **options)

    monkeypatch.setattr(shutil, "rmtree", removing)
    recode(open_storage(path), codec="zstd")
    assert Path(held[-1]).name == "new"
