"""Caches of entries whose bytes follow from their keys, and what other processes do with such a cache."""

from __future__ import annotations

import contextlib
import functools
import gc
import hashlib
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

from helpers.waiting import HANG
from tokenstore.errors import StoreError
from tokenstore.storage import cache as cache_module
from tokenstore.storage.cache import Cache, Policy

fcntl = pytest.importorskip("fcntl", reason="several processes need POSIX file locks")

LIMIT = 100_000
NO_PERMISSION_TO_TRY = 77
POLICIES: tuple[Policy, ...] = ("lru", "pin")


@functools.cache
def content(key: str) -> bytes:
    """Return bytes that only this key has; their number depends on the key too."""
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big"))
    return rng.bytes(int(rng.integers(1, LIMIT // 8)))


def holds(cache: Cache, key: str, data: bytes | None) -> bool:
    """Check that a cache gives these bytes for a key, or nothing for None."""
    found = cache.get(key)
    return found is None if data is None else found is not None and found.tobytes() == data


def files(folder: Path) -> list[Path]:
    """List all files of entries, finished or not."""
    return [path for path in (folder / "entries").rglob("*") if path.is_file()]


def disk_nbytes(folder: Path) -> int:
    """Count the bytes of entries and of unfinished files, in a folder where nothing changes."""
    return sum(path.stat().st_size for path in files(folder))


def check_after_a_kill(folder: Path, keys: list[str], policy: Policy) -> None:
    """Check that no entry is wrong and the limit holds, and that the next put clears the leftovers."""
    assert disk_nbytes(folder) <= LIMIT
    cache = Cache(folder, LIMIT, policy)
    assert all(cache.get(key) is None or holds(cache, key, content(key)) for key in keys)
    cache.put("after", b"after")
    assert holds(cache, "after", b"after")
    assert not [path for path in files(folder) if path.suffix == ".tmp"]
    assert cache.nbytes == disk_nbytes(folder) <= LIMIT


@contextlib.contextmanager
def locked_by_another(folder: Path) -> Iterator[None]:
    """Hold the lock of a cache as another process would."""
    with (folder / "total").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def start(function: str, *arguments: object) -> subprocess.Popen[str]:
    """Run a function of this file in a process of its own, which has one thread and so can fork."""
    patient = "cache_processes.cache_module.PATIENCE = 300"  # however busy the machine is
    call = f"from helpers import cache_processes; {patient}; "
    call += f"cache_processes.{function}(*{tuple(map(str, arguments))!r})"
    return subprocess.Popen([sys.executable, "-c", call], text=True)


def run(function: str, *arguments: object) -> int:
    """Run a function of this file in a process of its own, and return its exit code."""
    with start(function, *arguments) as process:
        return process.wait(HANG)


def hammer(folder: str, policy: Policy, seed: str, operations: str) -> None:
    """Use the cache as readers do, and check every byte."""
    cache, rng = Cache(folder, LIMIT, policy), random.Random(seed)
    hits = 0
    for _ in range(int(operations)):
        key = f"{rng.randrange(40)}"
        found = cache.get(key)
        if found is None:
            cache.put(key, content(key))
        else:
            hits += 1
            assert found.tobytes() == content(key)
            if rng.random() < 0.1:
                cache.discard(key)
    assert hits > int(operations) // 20


def kill_at_every_line(folder: str) -> None:
    """Put, with eviction and in the place of another entry, and die before the n-th line, for every n."""
    gc.freeze()  # so that children need not copy what they never use
    cache, keys = Cache(folder, LIMIT), [f"{i}" for i in range(8)]
    for step in itertools.count(1):
        for key in keys:
            cache.put(key, content(key))
        child = os.fork()
        if child == 0:
            left = step

            def trace(frame: FrameType, event: str, argument: object) -> Any:
                nonlocal left
                if frame.f_code.co_filename != cache_module.__file__:
                    return None
                left -= event == "line"
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return trace

            sys.settrace(trace)
            cache.put(keys[-1], content(keys[-1]))
            cache.put("large", bytes(LIMIT * 8 // 10))
            sys.settrace(None)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        check_after_a_kill(Path(folder), keys, "lru")
        if not os.WIFSIGNALED(status):
            assert os.WEXITSTATUS(status) == 0
            assert step > 60
            return


def kill_at_any_moment(folder: str, policy: Policy) -> None:
    """Kill two processes that put all the time, again and again."""
    rng, keys = random.Random(0), [f"{i}" for i in range(30)]
    for _ in range(25):
        children = []
        for seed in range(2):
            children.append(os.fork())
            if children[-1] == 0:
                cache, order = Cache(folder, LIMIT, policy), random.Random(rng.random() + seed)
                while True:
                    key = order.choice(keys)
                    cache.discard(order.choice(keys))
                    cache.put(key, content(key))
        for child in children:
            time.sleep(rng.random() * 0.02)
            os.kill(child, signal.SIGKILL)
        for child in children:
            os.waitpid(child, 0)
        check_after_a_kill(Path(folder), keys, policy)


def fork_while_a_thread_has_the_lock(folder: str) -> None:
    """Fork a child that outlives its parent's lock; both go on putting."""
    cache, has_lock, forked = Cache(folder, LIMIT), threading.Event(), threading.Event()
    cache.put("before", b"before")

    def hold() -> None:
        with cache._locked():
            has_lock.set()
            forked.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    has_lock.wait()
    ending, end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(end)
        assert holds(cache, "before", b"before")
        cache.put("child", b"child")
        kept = holds(cache, "child", b"child")
        os.read(ending, 1)
        os._exit(0 if kept else 1)
    time.sleep(0.05)
    forked.set()
    thread.join()
    cache.put("parent", b"parent")
    assert holds(cache, "parent", b"parent")
    os.close(end)
    assert os.waitpid(child, 0)[1] == 0
    assert holds(cache, "child", b"child")


def use_without_permission(folder: str) -> None:
    """Read, and do not write, a folder of another user or one that its owner made read-only."""
    cache = Cache(folder, LIMIT)
    cache.put("key", b"data")
    for path in (Path(folder), *Path(folder).rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    if os.geteuid() == 0:
        os.setuid(65534)
    if not os.access(cache._path("key"), os.R_OK):
        os._exit(NO_PERMISSION_TO_TRY)
    cache.put("new", b"data")
    assert holds(cache, "key", b"data")
    assert holds(cache, "new", None)
    cache.discard("key")
    assert holds(cache, "key", b"data")
    with pytest.raises(StoreError, match="a folder that can be written was expected"):
        Cache(folder, LIMIT)
