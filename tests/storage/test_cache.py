"""The cache: its arguments, the bytes it gives, and what it removes to stay within its limit."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.cache_processes import LIMIT, POLICIES, disk_nbytes, files, holds

from tokenstore.errors import StoreError
from tokenstore.storage.cache import Cache, Policy, parse_size


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
