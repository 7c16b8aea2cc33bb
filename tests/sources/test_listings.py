"""Listings of a source's files: the same however they are made, and made once for a resumed conversion."""

from __future__ import annotations

import os
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import active_children
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from helpers.tar_files import write_tar
from helpers.waiting import HANG, wait_until

from tokenstore.errors import SourceError
from tokenstore.sources import listings
from tokenstore.sources.files import LocalFile, SourceFile
from tokenstore.sources.listings import FileListing, SavedListings, list_files
from tokenstore.sources.tar import open_tar
from tokenstore.sources.tar_index import ListTar
from tokenstore.storage.local import LocalFolder


class Counted(ListTar):
    """A listing of tar files that notes which files it lists."""

    listed: list[str] = []  # noqa: RUF012 - of all instances, as a frozen dataclass takes no attribute

    def __call__(self, file: SourceFile) -> FileListing:
        self.listed.append(file.name)
        return super().__call__(file)


@pytest.fixture
def tars(tmp_path: Path) -> list[LocalFile]:
    """Write tar files of different members, some of which are left out with a note."""
    files = []
    for number in range(4):
        members: dict[str, Any] = {f"{number}{place}.jpg": b"x" for place in range(number + 2)}
        members |= {f"{number}0.txt": "text", f"{number}1.bmp": b"y", f"alone{number}.doc": b"z"}
        files.append(
            LocalFile.of(write_tar(tmp_path / "tars" / f"{number}.tar", dict(sorted(members.items()))))
        )
    return files


@pytest.fixture(autouse=True)
def count() -> None:
    Counted.listed.clear()


def equal(some: list[FileListing], others: list[FileListing]) -> bool:
    return [(each.table, each.facts) for each in some] == [(each.table, each.facts) for each in others]


def saved(folder: Path) -> SavedListings:
    """Return the listings in a folder, read anew."""
    return SavedListings(LocalFolder(str(folder)), "listings")


def test_saved_listings_are_used_while_the_files_are_what_they_were(
    tmp_path: Path, tars: list[LocalFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listings, "_FEWEST_ROWS", 1)
    monkeypatch.setattr(listings, "_ROWS_A_FILE", 6)
    first = list(list_files(tars, Counted(False), saved(tmp_path)))
    assert len(list((tmp_path / "listings").iterdir())) > 1
    Counted.listed.clear()
    assert equal(list(list_files(tars, Counted(False), saved(tmp_path))), first)
    assert Counted.listed == []
    os.utime(tars[1].path, ns=(1, 1))
    tars[1] = LocalFile.of(Path(tars[1].path))
    assert equal(list(list_files(tars, Counted(False), saved(tmp_path))), first)
    assert Counted.listed == ["1.tar"]
    Counted.listed.clear()
    list(list_files(tars, Counted(True), saved(tmp_path)))
    assert len(Counted.listed) == len(tars)  # by other rules


def test_a_damaged_listing_is_made_again(
    tmp_path: Path, tars: list[LocalFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listings, "_FEWEST_ROWS", 1)
    first = list(list_files(tars, Counted(False), saved(tmp_path)))
    (path,) = (tmp_path / "listings").iterdir()
    data = path.read_bytes()
    for damaged in (b"", data[:-20], b"PAR1" + data[100:], data[:9] + b"#" * 200 + data[209:]):
        path.write_bytes(damaged)
        assert equal(list(list_files(tars, Counted(False), saved(tmp_path))), first)


def test_a_flipped_bit_of_a_listing_moves_no_sample(tmp_path: Path) -> None:
    """Wrong offsets would be wrong images, which nothing later could tell."""
    rows = 2000
    numbers = np.random.default_rng(0).integers(0, 2**40, (2, rows))
    table = pa.table(
        {"member": [b"%d.jpg" % row for row in range(rows)], "offset": numbers[0], "size": numbers[1]}
    )
    written = saved(tmp_path)
    written.put("a key", FileListing(table, {}), slow=True)
    written.flush()
    (path,) = (tmp_path / "listings").iterdir()
    data = path.read_bytes()
    assert saved(tmp_path).get("a key") == FileListing(table, {})
    for place in range(0, len(data), len(data) // 50):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert saved(tmp_path).get("a key") is None


def test_a_listing_that_takes_no_time_is_not_saved(tmp_path: Path, tars: list[LocalFile]) -> None:
    list(list_files(tars, Counted(False), saved(tmp_path)))
    assert not (tmp_path / "listings").exists()


class BrokenExecutor(Executor):
    """An executor whose processes die at their second task."""

    def __init__(self) -> None:
        self.tasks = 0

    def submit(self, function: Any, /, *args: Any, **_: Any) -> Future[Any]:
        self.tasks += 1
        future: Future[Any] = Future()
        if self.tasks > 1:
            future.set_exception(BrokenProcessPool())
        else:
            future.set_result(function(*args))
        return future


def test_files_are_listed_here_where_processes_die(
    tars: list[LocalFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = list(list_files(tars, ListTar(False)))
    monkeypatch.setattr(listings, "_ROWS_FOR_PROCESSES", 0)
    monkeypatch.setattr(listings, "_processes", lambda _: 2)
    monkeypatch.setattr(listings, "_processes_for", lambda _: BrokenExecutor())
    assert equal(list(list_files(tars, ListTar(False))), plain)


RELEASED, ENDED = Event(), list[str]()


@dataclass(frozen=True)
class StopsAtTheSecond:
    """A listing that takes as long as one likes, but fails at once at the second file."""

    def __call__(self, file: SourceFile) -> FileListing:
        if file.name == "1.tar":
            raise SourceError("damaged")
        if file.name != "0.tar":
            RELEASED.wait(HANG)
            ENDED.append(file.name)
        return FileListing(pa.table({"row": [0]}), {})


@pytest.mark.parametrize("threads", [True, pytest.param(False, marks=pytest.mark.thorough)])
def test_an_error_does_not_wait_for_the_files_that_are_being_listed(
    tars: list[LocalFile], monkeypatch: pytest.MonkeyPatch, threads: bool
) -> None:
    monkeypatch.setattr(listings, "_ROWS_FOR_PROCESSES", 0)
    monkeypatch.setattr(listings, "_processes", lambda _: 2)
    if threads:
        monkeypatch.setattr(listings, "_processes_for", ThreadPoolExecutor)
    running = set(active_children())
    with pytest.raises(SourceError):
        list(list_files(tars, StopsAtTheSecond()))
    assert not threads or ENDED == []  # a process has its own
    RELEASED.set()
    wait_until(lambda: not set(active_children()) - running)


@pytest.mark.thorough
def test_processes_list_what_this_process_lists(
    tmp_path: Path, tars: list[LocalFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, source = list(list_files(tars, ListTar(False))), open_tar(tmp_path / "tars")
    monkeypatch.setattr(listings, "_ROWS_FOR_PROCESSES", 0)
    monkeypatch.setattr(listings, "_processes", lambda _: 2)
    assert equal(list(list_files(tars, ListTar(False))), plain)
    again = open_tar(tmp_path / "tars")
    assert again.notes == source.notes
    assert again.splits["train"].fingerprint() == source.splits["train"].fingerprint()
