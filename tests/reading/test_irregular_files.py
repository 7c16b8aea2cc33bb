"""Pipes, devices and far too large files in a store: one error, at once, in little memory."""

from __future__ import annotations

import os
import socket
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.damaged_stores import write

import tokenstore
from tokenstore.audit.verify import verify
from tokenstore.errors import DamageError, ManifestError, TokenstoreError
from tokenstore.reading.store_files import MAX_ROOT_NBYTES
from tokenstore.storage import open_storage

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the system has no named pipes")
ROOM = 4_000_000


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(os.path.relpath(path))


KINDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "pipe": (os.mkfifo, "found a named pipe"),
    "zeros": (lambda path: path.symlink_to("/dev/zero"), "found a device"),
    "folder": (Path.mkdir, "found a folder"),
    "circle": (lambda path: path.symlink_to(path), "found a circle of links"),
    "socket": (_socket, "found a socket"),
    "terabyte": (
        lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY), 10**12),
        "found 1000000000000",
    ),
}
FILES = ("zarr.json", "train/tokens/zarr.json", "train/tokens/c/0/0/0", "train/samples.parquet")


def read_everything(store: Path) -> None:
    opened = tokenstore.open(store)
    for split in opened.splits:
        opened[split].samples_table()
        for name in opened[split].columns:
            opened[split].read(name, np.arange(len(opened[split])))
            opened[split].in_memory([name])


@pytest.fixture(params=FILES)
def path(request: pytest.FixtureRequest) -> str:
    """Give the path of a file in the store."""
    return str(request.param)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_of_the_store_is_refused_before_it_is_read(
    tmp_path: Path, path: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(store := tmp_path / "a.zarr")
    (store / path).unlink()
    make, found = KINDS[kind]
    make(store / path)
    tracemalloc.start()
    with pytest.raises(DamageError, match=rf"{path}: expected .*{found}.*Restore") as raised:
        read_everything(store)
    assert tracemalloc.get_traced_memory()[1] < ROOM
    tracemalloc.stop()
    assert str(raised.value).count("\n") == 0
    assert any(path in problem for problem in verify(store).problems)


def test_links_to_regular_files_are_followed(tmp_path: Path) -> None:
    write(tmp_path / "a.zarr")
    (tmp_path / "b.zarr").mkdir()
    for path in (tmp_path / "a.zarr").iterdir():
        (tmp_path / "b.zarr" / path.name).symlink_to(path)
    read_everything(tmp_path / "b.zarr")


def test_a_root_beyond_any_stores_is_not_read(tmp_path: Path, memory_url: str, monkeypatch: Any) -> None:
    (tmp_path / "a").mkdir()
    with (tmp_path / "a" / "zarr.json").open("wb") as file:
        file.truncate(MAX_ROOT_NBYTES + 1)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr(zipfile.ZipInfo("zarr.json"), b" " * 20_001)
    open_storage(memory_url).write("zarr.json", b" " * 20_001)
    with pytest.raises(DamageError, match=f"at most {MAX_ROOT_NBYTES} bytes, found {MAX_ROOT_NBYTES + 1}"):
        tokenstore.open(tmp_path / "a")
    monkeypatch.setattr("tokenstore.reading.store_files.MAX_ROOT_NBYTES", 20_000)
    for url, found in ((str(tmp_path / "a.zip"), "20001"), (memory_url, "more")):
        with pytest.raises(DamageError, match=f"zarr.json: expected at most 20000 bytes, found {found}"):
            tokenstore.open(url)


@pytest.mark.parametrize("name", ["x" * 300, "train/samples.parquet/below", "nothing"])
def test_a_file_that_cannot_be_is_missing(tmp_path: Path, name: str) -> None:
    write(store := tmp_path / "a.zarr")
    with pytest.raises(FileNotFoundError):
        open_storage(store).read(name)
    with pytest.raises(FileNotFoundError):
        open_storage(store).read_range(name, 0, 1)


def test_a_zip_file_whose_members_are_larger_than_the_manifest_says_is_refused(tmp_path: Path) -> None:
    write(packed := tmp_path / "a.zip")
    with zipfile.ZipFile(packed) as members:
        contents = {name: members.read(name) for name in members.namelist()}
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as members:
        for name, data in contents.items():
            bomb = name.endswith(("/zarr.json", ".parquet"))
            members.writestr(name, data + b" " * (2 * ROOM) if bomb else data)
    tracemalloc.start()
    with pytest.raises((DamageError, ManifestError), match="expected at most"):
        read_everything(packed)
    with pytest.raises(TokenstoreError):
        tokenstore.open(packed)["train"].samples_table()
    assert tracemalloc.get_traced_memory()[1] < ROOM
    tracemalloc.stop()
