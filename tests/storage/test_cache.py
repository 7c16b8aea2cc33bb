"""The cache against a plain model, and under several processes, kills, forks, full disks and stuck locks."""

from __future__ import annotations

import contextlib
import errno
import functools
import gc
import hashlib
import itertools
import logging
import os
import pickle
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from helpers.waiting import HANG
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tokenstore.errors import StoreError
from tokenstore.storage import cache as cache_module
from tokenstore.storage.cache import Cache, Policy, parse_size

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
    found = cache.get(key)
    return found is None if data is None else found is not None and found.tobytes() == data


def files(folder: Path) -> list[Path]:
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
    with (folder / "total").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def start(function: str, *arguments: object) -> subprocess.Popen[str]:
    """Run a function of this file in a process of its own, which has one thread and so can fork."""
    patient = "test_cache.cache_module.PATIENCE = 300"  # however busy the machine is
    call = f"import test_cache; {patient}; test_cache.{function}(*{tuple(map(str, arguments))!r})"
    return subprocess.Popen([sys.executable, "-c", call], cwd=Path(__file__).parent, text=True)


def run(function: str, *arguments: object) -> int:
    with start(function, *arguments) as process:
        return process.wait(HANG)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let puts wait for other threads for as long as it takes."""
    monkeypatch.setattr(cache_module, "PATIENCE", HANG)


class ModelledCache(RuleBasedStateMachine):
    """Any sequence of operations does what it does to a dict that is ordered by use."""

    keys = st.sampled_from(["a", "b", "b/a", "store/train/tokens/0/8-16", "ä b", "c" * 300])
    sizes = st.integers(0, 45) | st.integers(90, 110)

    @initialize(policy=st.sampled_from(POLICIES))
    def open(self, policy: Policy) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.cache = Cache(self.folder, 100, policy)
        self.model: dict[str, bytes] = {}

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            for key in list(self.model):
                assert holds(self.cache, key, self.model[key])
            shutil.rmtree(self.folder)

    def use(self, key: str) -> bytes | None:
        if key in self.model and self.cache.policy == "lru":
            self.model[key] = self.model.pop(key)
        return self.model.get(key)

    def total(self) -> int:
        return sum(map(len, self.model.values()))

    @rule(key=keys, size=sizes, seed=st.integers(0, 255))
    def put(self, key: str, size: int, seed: int) -> None:
        data = random.Random(seed).randbytes(size)
        self.cache.put(key, data)
        self.model.pop(key, None)
        if size <= 100 and self.cache.policy == "lru" and self.total() + size > 100:
            while self.total() > min(100 - size, 90):
                del self.model[next(iter(self.model))]
        if self.total() + size <= 100:
            self.model[key] = data

    @rule(key=keys)
    def get(self, key: str) -> None:
        assert holds(self.cache, key, self.use(key))

    @rule(key=keys)
    def discard(self, key: str) -> None:
        self.cache.discard(key)
        self.model.pop(key, None)
        assert holds(self.cache, key, None)

    @rule()
    def send_to_another_process(self) -> None:
        self.cache = pickle.loads(pickle.dumps(self.cache))

    @rule(total=st.sampled_from([None, b"", b"-1", b"rubbish", b"%20d\n" % -1]))
    def die_while_writing(self, total: bytes | None) -> None:
        (self.folder / "total").unlink(missing_ok=True)
        if total is not None:
            (self.folder / "total").write_bytes(total)
        for path in files(self.folder)[:1]:
            path.with_name(f"{path.name}.0123456789abcdef.tmp").write_bytes(b"half")

    @invariant()
    def takes_what_the_model_takes(self) -> None:
        if hasattr(self, "folder"):
            assert self.cache.nbytes == self.total() == disk_nbytes(self.folder)


TestModelledCache = ModelledCache.TestCase
TestModelledCache.settings = settings(deadline=None, max_examples=60, stateful_step_count=40)


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("1B", 1),
        ("10GB", 10**10),
        ("512MB", 512 * 10**6),
        ("1.5 TB", 15 * 10**11),
        ("10GiB", 10 * 2**30),
        (" 0.3 kB ", 300),
        ("2PiB", 2 * 2**50),
    ],
)
def test_a_size_may_be_written_with_a_decimal_or_binary_unit(text: str, nbytes: int) -> None:
    assert parse_size(text) == nbytes


@pytest.mark.parametrize(
    "text", ["", "GB", "10", "10 G", "-1GB", "1e9B", "1,5TB", "10iB", "10GBs", "nan GB", "1 0GB"]
)
def test_any_other_size_is_refused_with_examples(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'"1\.5 TB", "10GiB"'):
        Cache(tmp_path, text)


@pytest.mark.parametrize("limit", [0, -1, "0GB", 99, "0.09kB", "999999PB"])
def test_a_limit_that_cannot_be_kept_is_refused(limit: int | str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"too small: an entry takes 100 bytes|but a disk of"):
        Cache(tmp_path, limit, largest=100)
    assert Cache(tmp_path, 100, largest=100).limit == 100


def test_an_unknown_policy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='"lru" or "pin"'):
        Cache(tmp_path, policy="fifo")  # type: ignore[arg-type]


@pytest.mark.parametrize("key", ["", "/", "/a", "a/", "a//b", "..", "a/../b", "./a", "a/."])
def test_a_key_that_is_no_plain_relative_path_is_refused(key: str, tmp_path: Path) -> None:
    cache = Cache(tmp_path, LIMIT)
    for use in (cache.get, cache.discard, lambda key: cache.put(key, b"")):
        with pytest.raises(ValueError, match="is not a key of the cache"):
            use(key)


def test_a_folder_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for folder in (tmp_path / "file", tmp_path / "file" / "folder"):
        with pytest.raises(StoreError, match=f"{folder}: a folder that can be written"):
            Cache(folder, LIMIT)


def test_any_contiguous_bytes_can_be_put_and_are_got_in_memory_of_their_own(tmp_path: Path) -> None:
    cache = Cache(tmp_path, LIMIT)
    data = np.arange(200, dtype=np.uint8)
    for given in (data, data.data, data.tobytes(), data.reshape(10, 20), memoryview(data.tobytes())):
        cache.discard("key")
        cache.put("key", given)
        found = cache.get("key")
        assert found is not None
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, data)
        found[:] = 0
        assert holds(cache, "key", data.tobytes())


def test_an_entry_is_got_in_the_room_that_there_is_for_it(tmp_path: Path) -> None:
    cache = Cache(tmp_path, LIMIT)
    cache.put("key", b"0123456789")
    room = np.zeros(12, np.uint8)
    for nbytes in (10, 4, 0):
        found = cache.get("key", room[:nbytes])
        assert found is not None
        assert found.tobytes() == b"0123456789"[:nbytes]
        assert np.shares_memory(found, room) or not nbytes
    assert room[10:].tolist() == [0, 0]
    assert cache.get("key", room) is None
    assert cache.get("other", room) is None


def test_a_relative_folder_stays_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cache = Cache("cache", LIMIT, "pin", largest=7)
    cache.put("key", b"data")
    monkeypatch.chdir("/")
    copy = pickle.loads(pickle.dumps(cache))
    assert (copy.limit, copy.policy, copy.largest) == (LIMIT, "pin", 7)
    assert holds(cache, "key", b"data")
    assert holds(copy, "key", b"data")


@pytest.mark.parametrize(("policy", "rate"), [("lru", 0.0), ("pin", 0.4)])
def test_a_cyclic_scan_of_more_than_the_limit_hits_when_pinned_only(
    policy: Policy, rate: float, tmp_path: Path
) -> None:
    cache, keys = Cache(tmp_path, 4000, policy), [f"{i}" for i in range(100)]
    hits = 0
    for key in keys * 3:
        if cache.get(key) is not None:
            hits += 1
        else:
            cache.put(key, b"x" * 100)
    assert hits == 2 * rate * len(keys)


def test_what_was_used_last_stays_longest(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1000)
    for i in range(10):
        cache.put(f"{i}", b"x" * 100)
    for i in (7, 0, 3):
        assert cache.get(f"{i}") is not None
    for i in range(10, 17):
        cache.put(f"{i}", b"x" * 100)
    assert [i for i in range(10) if cache.get(f"{i}") is not None] == [0, 3, 7]


def test_a_full_cache_makes_room_for_many_at_once(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1000)
    for i in range(101):
        cache.put(f"{i}", b"x" * 10)
    assert cache.nbytes == disk_nbytes(tmp_path) == 910


def test_a_smaller_limit_empties_the_folder_down_to_it(tmp_path: Path) -> None:
    large, small = Cache(tmp_path, 1000), Cache(tmp_path, 300)
    for i in range(10):
        large.put(f"{i}", b"x" * 100)
    assert large.nbytes == 1000
    Cache(tmp_path, 300, "pin").put("pinned", b"x")
    assert large.nbytes == 1000
    small.put("new", b"x" * 100)
    assert small.nbytes == large.nbytes == disk_nbytes(tmp_path) == 300
    assert large.get("9") is not None


def test_an_entry_too_large_is_not_kept_and_the_older_one_is_not_taken_for_it(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1000)
    for key in ("key", "other"):
        cache.put(key, b"old")
    cache.put("key", bytes(1001))
    assert holds(cache, "key", None)
    assert holds(cache, "other", b"old")


@pytest.mark.parametrize("policy", POLICIES)
def test_room_made_by_hand_is_noticed(policy: Policy, tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1000, policy)
    for i in range(10):
        cache.put(f"{i}", b"x" * 100)
    for path in files(tmp_path)[:5]:
        path.unlink()
    cache.put("new", b"x" * 100)
    assert holds(cache, "new", b"x" * 100)
    assert cache.nbytes == disk_nbytes(tmp_path) == 600
    shutil.rmtree(tmp_path / "entries")
    cache.put("newer", b"data")
    assert holds(cache, "newer", b"data")
    shutil.rmtree(tmp_path / "entries")
    (tmp_path / "total").unlink()
    assert cache.nbytes == 0
    cache.put("newest", b"data")
    assert holds(cache, "newest", b"data")


def test_files_that_are_not_the_caches_are_neither_counted_nor_removed(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1000)
    cache.put("key", b"x" * 900)
    folder = files(tmp_path)[0].parent
    others = [tmp_path / "notes", tmp_path / "entries" / ".DS_Store", folder / "notes.tmp", folder / "0123"]
    for other in others:
        other.write_bytes(bytes(5000))
    cache.put("new", b"x" * 900)
    assert holds(cache, "new", b"x" * 900)
    assert cache.nbytes == 900
    assert all(other.stat().st_size == 5000 for other in others)


def test_an_entry_that_vanishes_while_others_are_evicted_is_a_plain_miss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, scan = Cache(tmp_path, 1000), Cache._scan
    for i in range(10):
        cache.put(f"{i}", b"x" * 100)

    def scan_and_lose(self: Cache) -> Any:
        entries = scan(self)
        Path(min(entries)[1]).unlink()
        return entries

    monkeypatch.setattr(Cache, "_scan", scan_and_lose)
    cache.put("new", b"x" * 100)
    assert holds(cache, "new", b"x" * 100)
    assert holds(cache, "0", None)
    assert cache.nbytes == disk_nbytes(tmp_path) <= 1000


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


@pytest.mark.parametrize("policy", POLICIES)
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


def test_a_put_killed_at_any_line_leaves_a_cache_that_is_right(tmp_path: Path) -> None:
    assert run("kill_at_every_line", tmp_path / "cache") == 0


@pytest.mark.parametrize("policy", POLICIES)
def test_writers_killed_at_any_moment_leave_a_cache_that_is_right(policy: Policy, tmp_path: Path) -> None:
    Cache(tmp_path, LIMIT)
    assert run("kill_at_any_moment", tmp_path, policy) == 0


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


def test_a_fork_while_a_thread_has_the_lock_leaves_it_to_neither(tmp_path: Path) -> None:
    assert run("fork_while_a_thread_has_the_lock", tmp_path) == 0


def test_a_lock_that_is_never_released_stops_puts_but_not_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cache_module, "PATIENCE", 0.01)
    cache = Cache(tmp_path, LIMIT)
    for key in ("good", "damaged"):
        cache.put(key, b"data")
    with locked_by_another(tmp_path), caplog.at_level(logging.WARNING):
        for key in ("new", "newer"):
            cache.put(key, b"data")
        assert holds(cache, "good", b"data")
        assert holds(cache, "new", None)
        cache.discard("damaged")
        assert holds(cache, "damaged", None)
        assert cache.nbytes == 0
    assert len(caplog.records) == 1
    assert f"{tmp_path}: the cache cannot be used: another process" in caplog.text
    cache.put("new", b"data")
    assert holds(cache, "new", None), "no pause after a put that failed"
    cache._paused_until = 0
    cache.put("new", b"data")
    assert holds(cache, "new", b"data")


@pytest.mark.parametrize(
    "call", ["os.open", "os.write", "os.replace", "os.utime", "os.listdir", "os.scandir"]
)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EIO, errno.ENOENT])
def test_a_put_that_fails_is_logged_once_and_forgotten(
    call: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cache_module, "PAUSE", 0.0)
    cache = Cache(tmp_path, 1000, "pin")
    for key in ("good", "old"):
        cache.put(key, b"x" * 400)

    unbroken = os.open

    def fail(*arguments: Any, **named: object) -> int:
        if call == "os.open" and arguments[1] == os.O_RDONLY:
            return unbroken(*arguments)
        raise OSError(code, os.strerror(code), str(arguments[0]))

    with caplog.at_level(logging.WARNING), monkeypatch.context() as patch:
        patch.setattr(call, fail)
        cache.put("old", b"new" * 200)
        cache.put("new", b"new" * 200)
        assert holds(cache, "good", b"x" * 400)
    assert len(caplog.records) == 1
    assert os.strerror(code) in caplog.text
    assert holds(cache, "new", None)
    assert not [path for path in files(tmp_path) if path.suffix == ".tmp"]
    cache.discard("old")
    cache.put("new", b"x" * 600)
    assert holds(cache, "new", b"x" * 600)
    assert cache.nbytes == disk_nbytes(tmp_path) == 1000


def test_a_disk_that_is_full_in_the_middle_of_an_entry_keeps_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cache_module, "PAUSE", 0.0)
    cache = Cache(tmp_path, LIMIT)
    cache.put("small", b"small")
    largest_file, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        for key in ("large", "larger"):
            cache.put(key, bytes(50_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, hard))
    assert len(caplog.records) == 1
    assert len(files(tmp_path)) == 1
    assert holds(cache, "large", None)
    assert holds(cache, "small", b"small")
    cache.put("large", bytes(50_000))
    assert holds(cache, "large", bytes(50_000))
    assert cache.nbytes == 50_005


def test_a_folder_that_vanishes_is_missed_but_not_made_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = Cache(tmp_path / "cache", LIMIT)
    cache.put("key", b"data")
    shutil.rmtree(tmp_path / "cache")
    assert cache.get("key") is None
    assert cache.nbytes == 0
    cache.put("key", b"data")
    cache.discard("key")
    assert cache.get("key") is None
    assert len(caplog.records) == 1
    assert not (tmp_path / "cache").exists()


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


def test_a_folder_without_permission_to_write_is_read_all_the_same() -> None:
    with tempfile.TemporaryDirectory() as folder:
        status = run("use_without_permission", folder)
        for path in (Path(folder), *Path(folder).rglob("*")):
            path.chmod(0o755)
    if status == NO_PERMISSION_TO_TRY:
        pytest.skip("the temporary folder cannot be reached by another user")
    assert status == 0
