"""The cache where a lock, a disk or a folder fails: puts stop, and reading goes on."""

from __future__ import annotations

import errno
import logging
import os
import resource
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from helpers.cache_processes import (
    LIMIT,
    NO_PERMISSION_TO_TRY,
    disk_nbytes,
    files,
    holds,
    locked_by_another,
    run,
)

from tokenstore.storage import cache as cache_module
from tokenstore.storage.cache import Cache


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
        if call == "os.open" and not arguments[1] & (os.O_WRONLY | os.O_RDWR):
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


def test_a_folder_without_permission_to_write_is_read_all_the_same() -> None:
    with tempfile.TemporaryDirectory() as folder:
        status = run("use_without_permission", folder)
        for path in (Path(folder), *Path(folder).rglob("*")):
            path.chmod(0o755)
    if status == NO_PERMISSION_TO_TRY:
        pytest.skip("the temporary folder cannot be reached by another user")
    assert status == 0
