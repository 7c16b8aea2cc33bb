"""Pipes, devices and far too large files in a store: one error, at once, in little memory."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.damaged_stores import write
from helpers.growth import start_tracing, stop_tracing
from helpers.stores import edit_root

import tokenstore
from tokenstore.audit.verify import verify
from tokenstore.errors import DamageError, ManifestError
from tokenstore.reading.store_files import MAX_JSON_NBYTES
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


@contextlib.contextmanager
def memory_below(nbytes: int) -> Iterator[None]:
    """Fail if Python's objects take more memory in the block."""
    start_tracing()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        stop_tracing()
    assert peak < nbytes


def files_of(root: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a parsed root that lists files."""
    files: dict[str, Any] = root["attributes"]["tokenstore"]["files"]
    return files


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
    with (
        memory_below(ROOM),
        pytest.raises(DamageError, match=rf"{path}: expected .*{found}.*Restore") as raised,
    ):
        read_everything(store)
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
        file.truncate(MAX_JSON_NBYTES + 1)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr(zipfile.ZipInfo("zarr.json"), b" " * 20_001)
    open_storage(memory_url).write("zarr.json", b" " * 20_001)
    with pytest.raises(DamageError, match=f"at most {MAX_JSON_NBYTES} bytes, found {MAX_JSON_NBYTES + 1}"):
        tokenstore.open(tmp_path / "a")
    monkeypatch.setattr("tokenstore.reading.store_files.MAX_JSON_NBYTES", 20_000)
    for url, found in ((str(tmp_path / "a.zip"), "20001"), (memory_url, "more")):
        with pytest.raises(DamageError, match=f"zarr.json: expected at most 20000 bytes, found {found}"):
            tokenstore.open(url)


def test_json_of_millions_of_values_is_not_parsed(tmp_path: Path) -> None:
    write(store := tmp_path / "a.zarr")
    bomb = b"[" + b"[]," * 2_200_000 + b"[]]"
    (store / "train/tokens/zarr.json").write_bytes(bomb)
    record = [len(bomb), hashlib.sha256(bomb).hexdigest()]
    edit_root(store, lambda root: files_of(root).update({"train/tokens/zarr.json": record}))
    opened = tokenstore.open(store)
    refused = pytest.raises(ManifestError, match="expected at most 4194304 values, found 4400002")
    with memory_below(len(bomb) + ROOM), refused:
        opened["train"]
    (store / "zarr.json").write_bytes(bomb)
    with memory_below(len(bomb) + ROOM), refused:
        tokenstore.open(store)


@pytest.mark.parametrize(
    ("path", "nbytes"), [("train/samples.parquet", 2**40), ("train/tokens/zarr.json", 2**28)]
)
def test_a_table_that_the_manifest_says_to_be_beyond_memory_is_refused(
    tmp_path: Path, path: str, nbytes: int
) -> None:
    write(store := tmp_path / "a.zarr")
    os.truncate(store / path, nbytes)
    edit_root(store, lambda root: files_of(root).update({path: [nbytes, "0" * 64]}))
    with pytest.raises(ManifestError, match=rf"{path}: expected at most \d+ bytes, found {nbytes}"):
        read_everything(store)


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
    for read in (read_everything, lambda store: tokenstore.open(store)["train"].samples_table()):
        with memory_below(ROOM), pytest.raises(DamageError, match="expected at most"):
            read(packed)
