"""A cache's folder that others own or can write: refused, and no entry of theirs is believed."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.cache_processes import LIMIT, files, holds
from helpers.stores import random_codes, write_store

import tokenstore
from tokenstore.errors import StoreError
from tokenstore.reading import shards
from tokenstore.storage import open_storage
from tokenstore.storage.cache import Cache

pytestmark = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="the system has no owners of files")
STRANGER = 12345
REFUSED = "no other user owns or can write was expected, found .*Name another folder"


@pytest.fixture
def no_umask() -> Iterator[None]:
    """Let new files be as open as the code makes them."""
    before = os.umask(0)
    yield
    os.umask(before)


def give_away(path: Path) -> None:
    """Make another user the owner, or skip the test where only root may do so."""
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    os.chown(path, STRANGER, -1, follow_symlinks=False)


@pytest.mark.usefixtures("no_umask")
def test_all_that_a_cache_creates_is_its_users_alone(tmp_path: Path) -> None:
    Cache(tmp_path / "new" / "cache", LIMIT).put("key", b"data")
    created = [tmp_path / "new", *(tmp_path / "new").rglob("*")]
    assert len(created) == 6
    for path in created:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


@pytest.mark.parametrize("name", ["", "entries", "total"])
@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777, 0o1777])
def test_what_others_can_write_is_refused(tmp_path: Path, name: str, mode: int) -> None:
    Cache(tmp_path / "cache", LIMIT).put("key", b"data")
    (tmp_path / "cache" / name).chmod(mode)
    with pytest.raises(StoreError, match=REFUSED):
        Cache(tmp_path / "cache", LIMIT)
    (tmp_path / "cache" / name).chmod(0o755)
    assert holds(Cache(tmp_path / "cache", LIMIT), "key", b"data")


@pytest.mark.parametrize("name", ["", "entries", "total"])
def test_what_another_user_owns_is_refused(tmp_path: Path, name: str) -> None:
    Cache(tmp_path / "cache", LIMIT).put("key", b"data")
    give_away(tmp_path / "cache" / name)
    with pytest.raises(StoreError, match=f"owner {STRANGER}"):
        Cache(tmp_path / "cache", LIMIT)


def test_a_link_to_a_folder_is_followed_if_its_user_made_it(tmp_path: Path) -> None:
    Cache(tmp_path / "cache", LIMIT).put("key", b"data")
    (tmp_path / "link").symlink_to(tmp_path / "cache")
    assert holds(Cache(tmp_path / "link", LIMIT), "key", b"data")
    give_away(tmp_path / "link")
    with pytest.raises(StoreError, match=f"a link of owner {STRANGER}"):
        Cache(tmp_path / "link", LIMIT)


@pytest.mark.parametrize("name", ["entries", "total", "claims"])
def test_no_link_in_the_folder_is_followed(tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    (tmp_path / "cache").mkdir()
    if name != "entries":
        victim.write_text("precious")
    else:
        victim.mkdir()
    (tmp_path / "cache" / name).symlink_to(victim)
    with pytest.raises(StoreError, match="found a link"):
        Cache(tmp_path / "cache", LIMIT)
    assert name == "entries" or victim.read_text() == "precious"


def test_a_link_that_comes_later_is_not_followed_either(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache, victim = Cache(tmp_path / "cache", LIMIT), tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "cache" / "total").symlink_to(victim)
    with caplog.at_level(logging.WARNING):
        cache.put("key", b"data")
        cache.discard("key")
    assert victim.read_text() == "precious"
    assert len(caplog.records) == 1


@pytest.mark.parametrize("how", ["writable", "owned", "link", "pipe", "folder"])
def test_an_entry_that_another_could_have_made_is_none(tmp_path: Path, how: str) -> None:
    cache = Cache(tmp_path / "cache", LIMIT)
    cache.put("key", b"data")
    (entry,) = files(tmp_path / "cache")
    if how == "writable":
        entry.chmod(0o620)
    elif how == "owned":
        give_away(entry)
    else:
        entry.unlink()
        if how == "link":
            (tmp_path / "other").write_bytes(b"data")
            entry.symlink_to(tmp_path / "other")
        elif how == "pipe":
            os.mkfifo(entry)
        else:
            entry.mkdir()
    assert cache.get("key") is None
    assert cache.get("key", np.empty(4, np.uint8)) is None
    if how != "folder":
        cache.put("key", b"again")
        assert holds(cache, "key", b"again")
    assert how != "link" or (tmp_path / "other").read_bytes() == b"data"


def test_entries_that_changed_places_are_fetched_again(
    tmp_path: Path, memory_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "RUN_NBYTES", 1)
    codes = random_codes(40, (4, 6), 391)
    write_store(open_storage(memory_url), {"train": (codes,)}, chunk_samples=5, shard_samples=20)
    folder = tmp_path / "cache"
    np.testing.assert_array_equal(tokenstore.open(memory_url, cache_dir=folder)["train"][:], codes)
    contents = [(path, path.read_bytes()) for path in files(folder)]
    assert len(contents) == 2 + 8
    for (path, data), (_, other) in zip(contents, contents[1:] + contents[:1], strict=True):
        path.write_bytes(other)
        assert other != data
    for _ in range(2):
        np.testing.assert_array_equal(tokenstore.open(memory_url, cache_dir=folder)["train"][:], codes)
