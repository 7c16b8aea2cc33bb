"""Claims on a cache's entries: one owner each, no waiting for the dead, nor for ever for the living."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.waiting import HANG

from tokenstore.storage import claims as claims_module
from tokenstore.storage.cache import Cache
from tokenstore.storage.claims import Claims

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes share claims on Linux alone")

ITEMS = list(range(400))


def forked(work: Callable[[], object]) -> int:
    """Run a function in a forked process, which ends with code 0 where the function returns."""
    with warnings.catch_warnings():  # of other threads of this process, which the child does not need
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            work()
            os._exit(0)
        os._exit(1)
    return child


def code_of(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@contextlib.contextmanager
def owner(path: str, work: Callable[[Claims], object] = lambda claims: None) -> Iterator[int]:
    """Let another process claim "key", do some work, and then sleep until it is killed."""
    read, write = os.pipe()

    def claim() -> None:
        claims = Claims(path)
        assert claims.take("key")
        work(claims)
        os.write(write, b"!")
        signal.pause()

    child = forked(claim)
    os.close(write)
    assert os.read(read, 1) == b"!"
    os.close(read)
    try:
        yield child
    finally:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


class Folder:
    """Items as files, and the fetches noted, for any number of processes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        (path / "log").touch()

    def cached(self, items: list[int]) -> list[int]:
        return [item for item in items if not (self.path / str(item)).exists()]

    def fetch(self, items: list[int]) -> None:
        for item in items:
            with (self.path / "log").open("a") as log:
                log.write(f"{os.getpid()} {item}\n")
            (self.path / str(item)).touch()

    def fetched(self) -> dict[int, list[int]]:
        """Return the items that each process fetched."""
        by_process: dict[int, list[int]] = {}
        for line in (self.path / "log").read_text().splitlines():
            process, item = map(int, line.split())
            by_process.setdefault(process, []).append(item)
        return by_process


def test_a_key_has_one_owner_at_a_time(tmp_path: Path) -> None:
    first, second = (Claims(str(tmp_path / "claims")) for _ in range(2))
    assert first.take("a")
    assert not first.take("a"), "another thread's"
    assert not second.take("a")
    assert second.take("b")
    first.release(["a", "never taken"])
    assert second.take("a")
    assert not first.take("a")
    assert (tmp_path / "claims").stat().st_size == 0
    assert (tmp_path / "claims").stat().st_mode & 0o777 == 0o600


def test_processes_fetch_each_item_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims_module, "PATIENCE", HANG)
    folder, path = Folder(tmp_path / "items"), str(tmp_path / "claims")

    def obtain() -> None:
        Claims(path).share(ITEMS, str, folder.cached, folder.fetch)
        assert not folder.cached(ITEMS)

    assert [code_of(child) for child in [forked(obtain) for _ in range(3)]] == [0, 0, 0]
    assert sorted(item for items in folder.fetched().values() for item in items) == ITEMS


def test_threads_fetch_each_item_once_also_without_locks_of_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(claims_module.fcntl, "fcntl", no_locks)
    folder, claims = Folder(tmp_path / "items"), Claims(str(tmp_path / "claims"))
    threads = [
        threading.Thread(target=claims.share, args=(ITEMS, str, folder.cached, folder.fetch))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (items,) = folder.fetched().values()
    assert sorted(items) == ITEMS


def test_a_killed_owner_has_no_claims(tmp_path: Path) -> None:
    path = str(tmp_path / "claims")
    with owner(path) as process:
        claims = Claims(path)
        assert not claims.take("key")
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        assert claims.take("key")


def test_a_child_of_an_owner_keeps_no_claims_of_a_killed_parent(tmp_path: Path) -> None:
    path = str(tmp_path / "claims")
    children = tmp_path / "child"

    def fork(claims: Claims) -> None:
        child = os.fork()
        if child == 0:
            assert not claims.take("key"), "its parent has it"
            assert claims.take("other")
            children.write_text(str(os.getpid()))
            signal.pause()
        while not children.exists() or not children.read_text():
            pass

    with owner(path, fork) as process:
        child = int(children.read_text())
        try:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            claims = Claims(path)
            assert claims.take("key")
            assert not claims.take("other")
        finally:
            os.kill(child, signal.SIGKILL)


def test_nobody_waits_for_ever_for_an_owner_that_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims_module, "PATIENCE", 0.05)
    path, folder = str(tmp_path / "claims"), Folder(tmp_path / "items")
    with owner(path):
        Claims(path).share(["key", "free"], str, list, lambda items: folder.fetch([len(items[0])]))
    assert folder.fetched() == {os.getpid(): [len("free"), len("key")]}


def test_an_error_gives_claims_up(tmp_path: Path) -> None:
    first, second = (Claims(str(tmp_path / "claims")) for _ in range(2))

    def fail(items: list[int]) -> None:
        raise ValueError(len(items))

    with pytest.raises(ValueError, match=str(min(len(ITEMS), claims_module.AT_ONCE))):
        first.share(ITEMS, str, list, fail)
    assert all(second.take(str(item)) for item in ITEMS)


def test_where_nothing_can_be_put_nobody_waits(tmp_path: Path) -> None:
    """Fill a cache of the policy "pin", whose next entries each process has to fetch for itself."""
    cache, other = (Cache(tmp_path / "cache", 1000, "pin") for _ in range(2))
    fetched: list[str] = []
    for number in range(3):
        cache.put(str(number), bytes(400))
    assert other._claims.take("key")
    cache.fetch_once(["key"], str, list, fetched.extend)
    assert fetched == ["key"]


def test_a_file_that_others_can_write_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "claims"
    path.touch()
    path.chmod(0o666)
    claims = Claims(str(path))
    assert claims.take("key")
    assert not claims.take("key"), "threads of one process still have claims"
