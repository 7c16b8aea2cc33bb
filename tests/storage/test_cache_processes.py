"""The cache under several processes and threads, kills and forks."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

import pytest
from helpers.cache_processes import (
    LIMIT,
    POLICIES,
    content,
    disk_nbytes,
    holds,
    locked_by_another,
    run,
    start,
)
from helpers.waiting import HANG

from tokenstore.storage import cache as cache_module
from tokenstore.storage.cache import Cache, Policy


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let puts wait for other threads for as long as it takes."""
    monkeypatch.setattr(cache_module, "PATIENCE", HANG)


@pytest.mark.parametrize("policy", [pytest.param("lru", marks=pytest.mark.thorough), "pin"])
def test_four_processes_never_exceed_the_limit_nor_get_wrong_bytes(policy: Policy, tmp_path: Path) -> None:
    Cache(tmp_path, LIMIT).put("first", b"")
    processes = [start("hammer", tmp_path, policy, seed, 800) for seed in range(4)]
    seen = []
    end = time.monotonic() + HANG
    while any(process.poll() is None for process in processes):
        assert time.monotonic() < end
        with locked_by_another(tmp_path):
            seen.append(disk_nbytes(tmp_path))
        time.sleep(0.003)
    assert [process.wait() for process in processes] == [0] * 4
    assert LIMIT * 0.8 < max(seen) <= LIMIT
    assert Cache(tmp_path, LIMIT).nbytes == disk_nbytes(tmp_path)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("file_locks", [True, False])
def test_threads_share_a_cache_also_without_file_locks(
    file_locks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not file_locks:
        monkeypatch.setattr(cache_module, "fcntl", None)
    cache, failures = Cache(tmp_path, LIMIT), []

    def use(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(300):
            key = f"{rng.randrange(40)}"
            cache.put(key, content(key))
            found = cache.get(key)
            if found is not None and found.tobytes() != content(key):
                failures.append(key)

    threads = [threading.Thread(target=use, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG)
        assert not thread.is_alive()
    assert not failures
    assert 0 < cache.nbytes == disk_nbytes(tmp_path) <= LIMIT


@pytest.mark.usefixtures("patient")
def test_without_file_locks_a_thread_waits_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "fcntl", None)
    cache = Cache(tmp_path, LIMIT)
    thread = threading.Thread(target=cache.put, args=("key", b"data"))
    with cache._locked():
        thread.start()
        thread.join(0.2)
        assert holds(cache, "key", None)
    thread.join(HANG)
    assert holds(cache, "key", b"data")


@pytest.mark.thorough
def test_a_put_killed_at_any_line_leaves_a_cache_that_is_right(tmp_path: Path) -> None:
    assert run("kill_at_every_line", tmp_path / "cache") == 0


@pytest.mark.parametrize("policy", POLICIES)
def test_writers_killed_at_any_moment_leave_a_cache_that_is_right(policy: Policy, tmp_path: Path) -> None:
    Cache(tmp_path, LIMIT)
    assert run("kill_at_any_moment", tmp_path, policy) == 0


def test_a_fork_while_a_thread_has_the_lock_leaves_it_to_neither(tmp_path: Path) -> None:
    assert run("fork_while_a_thread_has_the_lock", tmp_path) == 0
