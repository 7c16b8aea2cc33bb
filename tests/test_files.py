"""Files are written whole or not at all, by one writer at a time, and readable by whom the umask lets."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from seitpp_models.weights.files import TrainedModel, save_model
from tokenstore.augment import AdapterConfig, TokenAdapt
from tokenstore.augment.adapters import save_adapter
from tokenstore.errors import StorageError
from tokenstore.files import move_file, whole_file, write_file
from tokenstore.format.manifest import TokenizerIdentity
from tokenstore.locks import LOCK_INSIDE, PlaceLock

posix_only = pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")


@pytest.fixture(params=[0o022, 0o077, 0o002], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_a_file_has_its_bytes_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_file(path, b"old")
    write_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@posix_only
def test_of_two_writers_of_a_file_the_second_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    """Let a second process, here a fork, write while the first is half way."""
    path = tmp_path / "model.safetensors"
    path.with_name("model.safetensors.partial").write_bytes(b"of a killed writer")

    def refused() -> None:
        with pytest.raises(StorageError, match=r"model.safetensors: another process is writing this file"):
            write_file(path, b"second")

    with whole_file(path) as file:
        file.write(b"fi")
        refused()
        in_a_fork(refused)
        file.write(b"rst")
    assert path.read_bytes() == b"first"
    write_file(path, b"second")
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [(path.name, b"second")]


@posix_only
def test_of_two_writers_without_locks_each_writes_a_whole_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokenstore.files.try_lock", lambda _: None)
    path = tmp_path / "model.safetensors"
    with whole_file(path) as file:
        file.write(b"fi")
        write_file(path, b"second")
        assert path.read_bytes() == b"second"
        file.write(b"rst")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_raises_leaves_the_old_file_and_no_temporary_one(tmp_path: Path) -> None:
    path, temporary = tmp_path / "file", tmp_path / "elsewhere"
    path.write_bytes(b"old")

    def interrupted(temporary: Path | None) -> None:
        with whole_file(path, temporary=temporary) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    for chosen in (None, temporary):
        with pytest.raises(KeyboardInterrupt):
            interrupted(chosen)
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]


def test_the_file_is_complete_on_disk_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    replace = Path.replace
    monkeypatch.setattr("os.fsync", lambda descriptor: calls.append(os.fstat(descriptor).st_size))

    def replacing(self: Path, target: Path) -> Path:
        calls.append("rename")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", replacing)
    write_file(tmp_path / "file", b"four")
    assert calls[:2] == [4, "rename"]
    assert len(calls) == 2 + (os.name == "posix"), "the folder is flushed last"
    calls.clear()
    write_file(tmp_path / "file", b"four", sync=False)
    assert calls == ["rename"]
    calls.clear()
    move_file(tmp_path / "file", tmp_path / "moved")
    assert calls[:2] == [4, "rename"]
    assert (tmp_path / "moved").read_bytes() == b"four"


def save_small_adapter(path: Path) -> None:
    sizes = AdapterConfig(codebook_size=4, channels=2, grid=(4, 4), size=(2, 2), width=4, heads=1, mlp=4)
    save_adapter(TokenAdapt(sizes), path)


def save_small_model(path: Path) -> None:
    save_model(TrainedModel(torch.nn.Linear(2, 2), "vit", {}, TokenizerIdentity("test")), path)


@posix_only
@pytest.mark.parametrize("write", [lambda path: write_file(path, b""), save_small_adapter, save_small_model])
def test_a_new_file_has_the_permissions_of_the_umask(
    write: Callable[[Path], None], umask: int, tmp_path: Path
) -> None:
    path = tmp_path / "file.safetensors"
    write(path)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def refused(path: Path, match: str = "another process is writing this place") -> None:
    with pytest.raises(BlockingIOError, match=match):
        PlaceLock(path)


def test_one_holder_at_a_time_has_a_lock_and_nothing_stays_of_it(tmp_path: Path) -> None:
    place = tmp_path / "deep" / "store"
    (tmp_path / "link").symlink_to(place)
    with PlaceLock(place) as lock:
        for path in (place, tmp_path / "link", tmp_path / "deep" / ".." / "deep" / "store"):
            refused(path)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(refused, place).result()
        with PlaceLock(place.with_name("other")):
            pass
    lock.release()
    PlaceLock(place).release()
    assert list((tmp_path / "deep").iterdir()) == []


def test_whoever_opened_the_file_of_a_lock_given_back_takes_a_new_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Give the lock back between another's opening of its file and the locking of it."""
    first = PlaceLock(tmp_path / "store")
    fcntl = pytest.importorskip("fcntl")
    plain = fcntl.flock

    def late(descriptor: int, operation: int) -> None:
        first.release()
        plain(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with PlaceLock(tmp_path / "store"):
        refused(tmp_path / "store")


def in_a_fork(work: Callable[[], object]) -> int:
    """Start a function in a fork of this process, which is killed right after it; return the process id."""
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        work()
        os.write(told, b".")
        os.kill(os.getpid(), signal.SIGKILL)
    os.close(told)
    os.read(ready, 1)
    os.close(ready)
    os.waitpid(pid, 0)
    return pid


@posix_only
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_the_lock_of_a_killed_process_is_free_whatever_its_forks_do(tmp_path: Path) -> None:
    place, locks = tmp_path / "store", []
    in_a_fork(lambda: locks.append(PlaceLock(place)))
    assert [path.name for path in tmp_path.iterdir()] == [".store.lock"]
    PlaceLock(place).release()
    end, go_on = os.pipe()

    def with_a_fork() -> None:
        locks.append(PlaceLock(place))
        if os.fork() == 0:
            os.close(go_on)
            os.read(end, 1)  # until the test ends
            locks.clear()
            os._exit(0)

    in_a_fork(with_a_fork)
    PlaceLock(place).release()
    with PlaceLock(place):
        in_a_fork(lambda: None)
        refused(place)
    os.close(go_on)
    os.close(end)
    assert list(tmp_path.iterdir()) == []


@posix_only
@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_locks_in_the_file_system_the_file_is_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def missing(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", missing)
    with PlaceLock(tmp_path / "store"):
        refused(tmp_path / "store", r"If none is, remove .*/\.store\.lock: this file system has no locks")
    PlaceLock(tmp_path / "store").release()


@posix_only
def test_a_folder_whose_parent_takes_no_files_has_its_lock_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "store").mkdir()
    plain = os.open

    def refusing(path: Any, flags: int, *mode: int, **options: Any) -> int:
        if Path(path).parent == tmp_path and flags & os.O_CREAT:
            raise OSError(errno.EROFS, "read-only")
        return plain(path, flags, *mode, **options)

    monkeypatch.setattr(os, "open", refusing)
    with PlaceLock(tmp_path / "store"):
        assert [path.name for path in (tmp_path / "store").iterdir()] == [LOCK_INSIDE]
        refused(tmp_path / "store")
    assert list((tmp_path / "store").iterdir()) == []
    with pytest.raises(OSError, match="read-only"):
        PlaceLock(tmp_path / "nothing")


@posix_only
def test_a_file_of_somebody_that_has_the_lock_s_name_stays(tmp_path: Path) -> None:
    mine = tmp_path / ".store.lock"
    mine.write_text("years")
    with PlaceLock(tmp_path / "store"):
        refused(tmp_path / "store")
    assert mine.read_text() == "years"
    mine.unlink()
    (tmp_path / "elsewhere").write_bytes(b"")
    mine.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match=r"\.store\.lock"):
        PlaceLock(tmp_path / "store")
