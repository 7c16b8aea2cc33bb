"""A store that is replaced, recoded or removed while it is open: its own samples, or one error."""

from __future__ import annotations

import functools
import os
import pickle
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.object_storage import S3Server
from helpers.stores import random_codes, write_store
from helpers.waiting import PATIENT

import tokenstore
from tokenstore import TokenDataset, TokenLoader
from tokenstore.errors import DamageError, StoreChangedError
from tokenstore.reading import shards, store_files
from tokenstore.storage import local, open_storage

SAMPLES = 60
LABELS = np.arange(SAMPLES, dtype=np.int32)
CODES = [random_codes(SAMPLES, (2, 3), 391, seed=seed) for seed in range(2)]
CHANGED = "the store has changed since it was opened: .*Open it again"


def write(target: Any, version: int, codec: str = "bitpack") -> None:
    """Write one of two stores of the same layout; `version` is 0 or 1."""
    samples = {"train": (CODES[version], LABELS + 1000 * version)}
    write_store(target, samples, codec=codec, chunk_samples=5, shard_samples=20)


def exchange(one: Path, other: Path) -> None:
    """Let two stores change places."""
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


@pytest.fixture
def each_chunk_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fetch no two chunks in one request."""
    monkeypatch.setattr(shards, "RUN_NBYTES", 1)


@pytest.fixture
def both(tmp_path: Path) -> tuple[Path, Path]:
    """Write both stores, and give their paths."""
    paths = tmp_path / "a.zarr", tmp_path / "b.zarr"
    for version, path in enumerate(paths):
        write(path, version)
    return paths


def read_all(read: Callable[[int], Any], step: int = 1) -> int:
    """Read samples one by one: each is the first store's or the error; return how many gave the error."""
    errors = 0
    for sample in range(0, SAMPLES, step):
        try:
            tokens, label = read(sample)
        except StoreChangedError:
            errors += 1
        else:
            np.testing.assert_array_equal(tokens, CODES[0][sample])
            assert label == sample
    return errors


def test_a_store_replaced_by_one_of_the_same_layout_is_noticed(both: tuple[Path, Path]) -> None:
    dataset, opened_only = TokenDataset(both[0]), TokenDataset(both[0])
    copy = pickle.dumps(dataset)
    assert dataset[0][1] == 0
    exchange(*both)
    assert read_all(dataset.__getitem__) == 40, "20 samples are in the shard that was open"
    assert read_all(opened_only.__getitem__) == SAMPLES
    assert read_all(lambda sample: pickle.loads(copy)[sample]) == SAMPLES
    for read in (
        lambda: list(TokenLoader(opened_only, 8, resident="ram")),
        lambda: opened_only.filter(labels=[3]),
    ):
        with pytest.raises(StoreChangedError, match=CHANGED):
            read()
    exchange(*both)
    assert read_all(opened_only.__getitem__) == 0


def test_where_another_store_has_its_chunks_is_forgotten(tmp_path: Path) -> None:
    codes = np.concatenate([CODES[0][:20], np.zeros((20, 2, 3), CODES[0].dtype)])
    paths = tmp_path / "a.zarr", tmp_path / "b.zarr"
    for path, own in zip(paths, (codes, codes[::-1]), strict=True):
        write_store(path, {"train": (own,)}, codec="zstd", chunk_samples=20, shard_samples=40)
    assert len({(path / "train/tokens/c/0/0/0").stat().st_size for path in paths}) == 1
    reader = tokenstore.open(paths[0])["train"]
    exchange(*paths)
    with pytest.raises(StoreChangedError, match=CHANGED):
        reader[0]
    exchange(*paths)
    np.testing.assert_array_equal(reader[:], codes)


def test_a_store_replaced_at_any_moment_gives_its_own_samples_or_the_error(
    both: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = local.open_regular
    left = 0

    def open_and_exchange(path: str, where: str) -> tuple[int, int]:
        nonlocal left
        left -= 1
        if left == 0:
            exchange(*both)
        return plain(path, where)

    monkeypatch.setattr(local, "open_regular", open_and_exchange)
    for moment in range(1, 30):
        left = 0
        store = tokenstore.open(both[0])
        left = moment
        try:
            dataset = TokenDataset(store)
        except StoreChangedError:
            pass
        else:
            read_all(dataset.__getitem__)
        if left > 0:
            break
        exchange(*both)
    assert moment > 6


@pytest.mark.parametrize("codec", ["context", "zstd"])
def test_a_recode_in_place_never_looks_like_damage(tmp_path: Path, codec: str) -> None:
    write(tmp_path / "a.zarr", 0)
    dataset, untouched = TokenDataset(tmp_path / "a.zarr"), TokenDataset(tmp_path / "a.zarr")
    assert dataset[0][1] == 0
    tokenstore.recode(tmp_path / "a.zarr", codec=codec, min_decode_rate=0)
    assert read_all(dataset.__getitem__) == 40
    assert read_all(untouched.__getitem__) == SAMPLES
    with pytest.raises(StoreChangedError, match=CHANGED):
        untouched.reader.samples_table()


def test_a_store_that_was_removed_is_not_called_damaged(both: tuple[Path, Path]) -> None:
    dataset = TokenDataset(both[0])
    shutil.rmtree(both[0])
    assert read_all(dataset.__getitem__) == SAMPLES
    with pytest.raises(StoreChangedError, match="it was removed"):
        dataset[0]


@pytest.mark.parametrize("action", ["verify", "copy"])
def test_a_store_replaced_while_it_is_verified_or_copied_is_not_called_damaged(
    both: tuple[Path, Path], action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # subtle: with threads, all files may be read before the caller hears of the second
    monkeypatch.setattr("tokenstore.audit.verify.available_cores", lambda: 1)
    calls = []

    def replace_once(done: int, total: int) -> None:
        calls.append(done)
        if len(calls) == 2:
            exchange(*both)

    target = (both[0].with_name("copy.zarr"),) if action == "copy" else ()
    with pytest.raises(StoreChangedError, match=CHANGED):
        getattr(tokenstore, action)(both[0], *target, on_progress=replace_once)


def test_a_damaged_store_that_was_not_replaced_is_still_called_damaged(both: tuple[Path, Path]) -> None:
    dataset = TokenDataset(both[0])
    shard = both[0] / "train/tokens/c/0/0/0"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(DamageError, match="Restore the shard from a copy"):
        dataset[0]


def test_a_zip_file_that_was_replaced_goes_on_as_it_was_opened(tmp_path: Path) -> None:
    for version, name in enumerate(("a.zip", "b.zip")):
        write(tmp_path / name, version)
    dataset, untouched = TokenDataset(tmp_path / "a.zip"), TokenDataset(tmp_path / "a.zip")
    copy = pickle.dumps(dataset)
    assert dataset[0][1] == 0
    exchange(tmp_path / "a.zip", tmp_path / "b.zip")
    assert read_all(dataset.__getitem__) == read_all(untouched.__getitem__) == 0
    assert read_all(lambda sample: pickle.loads(copy)[sample]) == SAMPLES
    if hasattr(os, "fork"):
        child = os.fork()
        if child == 0:
            os._exit(read_all(untouched.__getitem__))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


class TellsVersions(SimpleHTTPRequestHandler):
    """A server that knows ranges and tells each file's version; the class notes what was asked for."""

    asked: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.asked.append(self.path)
        try:
            data = Path(self.translate_path(self.path)).read_bytes()
            inode = Path(self.translate_path(self.path)).stat().st_ino
        except OSError:
            self.send_error(404)
            return
        start, stop = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        part = data[start : stop + 1]
        self.send_response(206)
        self.send_header("ETag", f'"{inode}"')
        self.send_header("Content-Range", f"bytes {start}-{start + len(part) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def versioned(tmp_path: Path) -> Iterator[str]:
    """Serve the temporary folder."""
    TellsVersions.asked.clear()
    handler = functools.partial(TellsVersions, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.usefixtures("each_chunk_alone")
def test_a_store_replaced_behind_a_web_server_is_noticed_at_once(
    both: tuple[Path, Path], serve_folder: Callable[[Path], str]
) -> None:
    dataset = TokenDataset(f"{serve_folder(both[0].parent)}/a.zarr", retries=PATIENT)
    assert dataset[0][1] == 0
    exchange(*both)
    assert read_all(dataset.__getitem__, step=5) == 11, "one chunk is in memory"


@pytest.mark.usefixtures("each_chunk_alone")
def test_versions_that_a_web_server_tells_save_looks_at_the_root(
    both: tuple[Path, Path], versioned: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_files, "CHECK_SECONDS", 300.0)
    dataset = TokenDataset(f"{versioned}/a.zarr", retries=PATIENT)
    assert read_all(dataset.__getitem__, step=5) == 0
    assert TellsVersions.asked.count("/a.zarr/zarr.json") == 3, "opened, and an index of two arrays"
    dataset = TokenDataset(f"{versioned}/a.zarr", retries=PATIENT)
    assert dataset[0][1] == 0
    exchange(*both)
    assert read_all(dataset.__getitem__, step=5) == 11


@pytest.mark.usefixtures("each_chunk_alone")
def test_a_store_replaced_in_object_storage_is_noticed_after_some_seconds_and_never_cached(
    memory_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_files, "CHECK_SECONDS", 300.0)
    write(open_storage(memory_url), 0)
    dataset = TokenDataset(memory_url)
    caching = TokenDataset(memory_url, cache_dir=tmp_path / "cache")
    assert dataset[0][1] == caching[0][1] == 0
    open_storage(memory_url).remove("")
    write(open_storage(memory_url), 1)
    assert read_all(caching.__getitem__) == SAMPLES - 5
    monkeypatch.setattr(store_files, "CHECK_SECONDS", 0.0)
    assert read_all(dataset.__getitem__) == SAMPLES - 5
    reopened = TokenDataset(memory_url, cache_dir=tmp_path / "cache")
    np.testing.assert_array_equal(reopened[:][0], CODES[1])


@pytest.mark.usefixtures("each_chunk_alone")
def test_a_store_replaced_on_s3_is_noticed_at_once(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_files, "CHECK_SECONDS", 300.0)
    url, options = f"s3://{s3_server.new_bucket()}/a.zarr", s3_server.storage_options()
    write(open_storage(url, options), 0)
    dataset = TokenDataset(url, storage_options=options, retries=PATIENT)
    assert dataset[0][1] == 0
    open_storage(url, options).remove("")
    write(open_storage(url, options), 1)
    assert read_all(dataset.__getitem__, step=5) == 11
