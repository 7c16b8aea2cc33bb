"""Whole files are checked many at a time, read once, and with the findings of the plain checks."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from helpers.fault_proxy import FaultProxy
from helpers.growth import peak_nbytes
from helpers.object_storage import S3Server
from helpers.stores import Samples, contents, edit_root, random_codes, replace_files, write_store

import tokenstore
from tokenstore.audit import checked_labels, sound_files, sound_shards, tables
from tokenstore.audit.sound_shards import ShardCheck
from tokenstore.audit.verify import Verification, verify
from tokenstore.errors import DamageError, StorageError
from tokenstore.format import ArrayLayout, FileRecord
from tokenstore.format import tables as format_tables
from tokenstore.reading import ArrayReader, StoreFiles, checked_files
from tokenstore.storage import open_storage
from tokenstore.storage.remote import RemoteFolder


def write(path: Path, codec: str = "bitpack") -> Path:
    labels = (np.arange(40) % 3).astype(np.int32)
    masks = np.arange(40 * 6, dtype=np.uint8).reshape(40, 6)
    write_store(
        path,
        {"train": Samples(random_codes(40, (2, 3), 5), labels, {"masks": masks})},
        5,
        codec=codec,
        chunk_samples=4,
        shard_samples=16,
        class_names=tuple("abc"),
    )
    return path


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let shards have several pieces, chunks lie in two of them, and large files be fetched in parts."""
    monkeypatch.setattr(sound_files, "PIECE_NBYTES", 50)
    monkeypatch.setattr(checked_files, "_PIECE_NBYTES", 50)
    monkeypatch.setattr(sound_files, "_LOCAL_PIECE_NBYTES", 70)
    monkeypatch.setattr(sound_shards, "_VALUES_NBYTES", 100)


@pytest.fixture
def no_labels_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no labels stay in memory from the check of their shards, as in a store with millions of them."""
    monkeypatch.setattr(checked_labels, "_IN_MEMORY_NBYTES", 0)


def plainly(check: Callable[[], Verification]) -> Verification:
    """Verify by the plain checks alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sound_files.SoundFiles, "passes", lambda *_: False)
        return check()


def changes(store: Path) -> Iterator[tuple[str, bytes | None]]:
    """Yield every file of a store with other bytes, and None for a file that is gone."""
    for path, data in contents(store).items():
        if path == "zarr.json":
            continue
        for place in (0, len(data) // 2, len(data) - 1):
            yield path, data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]
        yield path, data + b"\0"
        yield path, data[:-1]
        yield path, None


@pytest.mark.parametrize("codec", ["bitpack", "zstd"])
def test_findings_are_those_of_the_plain_checks(tmp_path: Path, codec: str) -> None:
    store = write(tmp_path / "store", codec)
    assert verify(store) == plainly(lambda: verify(store))
    assert verify(store).ok
    for path, data in list(changes(store))[:: 3 if codec == "bitpack" else 11]:
        before = (store / path).read_bytes()
        if data is None:
            (store / path).unlink()
        else:
            (store / path).write_bytes(data)
        found = verify(store)
        assert not found.ok
        assert found == plainly(lambda: verify(store)), path
        (store / path).write_bytes(before)


def test_findings_under_right_digests_are_those_of_the_plain_checks(tmp_path: Path) -> None:
    store = write(tmp_path / "store")
    data = (store / "train/tokens/c/1/0/0").read_bytes()
    for path, changed in (
        ("train/tokens/c/1/0/0", bytes([data[0] ^ 1]) + data[1:]),  # a wrong CRC-32C
        ("train/tokens/c/1/0/0", data[:-30] + bytes(30)),  # no index
        ("train/tokens/c/1/0/0", data[:5]),
        ("train/tokens/c/1/0/0", (store / "train/tokens/c/2/0/0").read_bytes()),
        ("train/labels/c/1", (store / "train/labels/c/0").read_bytes()),  # other labels than the names
        ("train/labels/c/1", b""),
        ("train/samples.parquet", b"PAR1"),
    ):
        before = contents(store)
        replace_files(store, {path: changed})
        found = verify(store)
        assert not found.ok
        assert found == plainly(lambda: verify(store)), path
        for name, old in before.items():
            (store / name).write_bytes(old)


@pytest.mark.parametrize("nbytes", [0, 2**20])
def test_the_first_wrong_name_of_a_label_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nbytes: int
) -> None:
    monkeypatch.setattr(checked_labels, "_IN_MEMORY_NBYTES", nbytes)
    store = write(tmp_path / "store")
    replace_files(store, {"train/labels/c/1": (store / "train/labels/c/0").read_bytes()})
    (problem,) = verify(store).problems
    assert problem.endswith("row 16 has the label name 'b', but its sample has the label 0, 'a'"), problem


@pytest.mark.usefixtures("no_labels_in_memory")
@pytest.mark.parametrize("ahead", [1, 7, 16, 1000])
def test_labels_are_compared_however_many_are_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    store, plain, read = write(tmp_path / "store"), ArrayReader.read_range, list[tuple[int, ...]]()

    def noted(reader: ArrayReader, *rows: int) -> Any:
        if reader.name == "train/labels":
            read.append(rows)
        return plain(reader, *rows)

    monkeypatch.setattr(ArrayReader, "read_range", noted)
    monkeypatch.setattr(tables, "_LABELS_AT_ONCE", ahead)
    monkeypatch.setattr(format_tables, "BATCH_ROWS", 5)
    assert verify(store).ok
    assert read[-1][1] == 40
    assert len(read) == {1: 10, 7: 8, 16: 3, 1000: 1}[ahead]  # batches of 5 rows end with a row group of 16
    replace_files(store, {"train/labels/c/1": (store / "train/labels/c/0").read_bytes()})
    (problem,) = verify(store).problems
    assert problem.endswith("row 16 has the label name 'b', but its sample has the label 0, 'a'"), problem


@pytest.mark.usefixtures("no_labels_in_memory")
@pytest.mark.parametrize("times", [1, 3, 4, 10**6])
def test_labels_that_cannot_be_read_once_are_compared_again_or_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    store, plain, left = write(tmp_path / "store"), ArrayReader.read_range, [times]

    def failing(reader: ArrayReader, *rows: int) -> Any:
        if reader.name == "train/labels" and left[0]:
            left[0] -= 1
            raise DamageError("a chunk is damaged")
        return plain(reader, *rows)

    monkeypatch.setattr(ArrayReader, "read_range", failing)
    replace_files(store, {"train/labels/c/1": (store / "train/labels/c/0").read_bytes()})
    (problem,) = verify(store).problems
    if times < 4:  # together, alone, and both again after the file's plain check
        assert "row 16 has the label name 'b'" in problem
    else:
        assert problem.endswith(
            "train/samples.parquet: the names of labels could not be compared with the labels: "
            "a chunk is damaged"
        )


@pytest.mark.parametrize("is_remote", [False, True])
@pytest.mark.parametrize("slow", ["nothing", "train/labels", "train/labels/c/0"])
def test_labels_are_compared_as_the_checks_of_their_shards_decode_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory_url: str, is_remote: bool, slow: str
) -> None:
    def refused(*_: Any) -> Any:
        raise AssertionError("the labels were read again")

    layout, passes_shard = StoreFiles.layout, sound_files.SoundFiles._passes_shard

    def layout_in_time(self: StoreFiles, array: str) -> ArrayLayout:
        time.sleep(0.2 * (array == slow))
        return layout(self, array)

    def passes_shard_in_time(self: sound_files.SoundFiles, *of: Any) -> bool:
        time.sleep(0.2 * (slow in of))
        return passes_shard(self, *of)

    store = write(tmp_path / "store")
    tokenstore.copy(store, memory_url)
    with monkeypatch.context() as patch:
        patch.setattr(ArrayReader, "read_range", refused)
        patch.setattr(sound_files, "PIECE_NBYTES", 1000)
        patch.setattr(StoreFiles, "layout", layout_in_time)
        patch.setattr(sound_files.SoundFiles, "_passes_shard", passes_shard_in_time)
        assert verify(memory_url if is_remote else store).ok
    files = StoreFiles(open_storage(store))
    sound, path = sound_files.SoundFiles(files), "train/samples.parquet"
    assert sound.passes(path, files.record(path))  # before any shard of labels
    assert sound.table_problems == {path: []}


def test_labels_that_are_damaged_are_reported_once(tmp_path: Path) -> None:
    store = write(tmp_path / "store")
    data = (store / "train/labels/c/1").read_bytes()
    replace_files(store, {"train/labels/c/1": bytes([data[0] ^ 1]) + data[1:]})
    (problem,) = verify(store).problems
    assert "train/labels" in problem
    assert "could not be compared" not in problem


def test_a_file_of_this_machine_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = write(tmp_path / "store")
    read: list[int] = []
    plain, plain_into = sound_files.read_at, sound_files.read_into

    def counted(descriptor: int, start: int, stop: int) -> bytes:
        read.append(stop - start)
        return plain(descriptor, start, stop)

    def counted_into(descriptor: int, start: int, room: memoryview) -> int:
        read.append(len(room))
        return plain_into(descriptor, start, room)

    monkeypatch.setattr(sound_files, "read_at", counted)
    monkeypatch.setattr(sound_files, "read_into", counted_into)
    assert verify(store).ok
    opened = tokenstore.open(store)
    indexes = sum(
        reader.layout.shards * reader.layout.index_nbytes for reader in opened["train"].arrays.values()
    )
    table = opened.files.record("train/samples.parquet").size
    assert sum(read) == opened.files.nbytes - opened.files.root_nbytes - table + indexes


def test_fetched_files_are_checked_as_local_ones(tmp_path: Path, memory_url: str) -> None:
    store = write(tmp_path / "store")
    tokenstore.copy(store, memory_url)
    fs, root = fsspec.core.url_to_fs(memory_url)
    local, remote = verify(store), verify(memory_url)
    assert (remote.ok, remote.chunks, remote.files) == (True, local.chunks, local.files)
    for path, data in list(changes(store))[::7]:
        before = fs.cat_file(f"{root}/{path}")
        fs.rm_file(f"{root}/{path}")
        if data is not None:
            fs.pipe_file(f"{root}/{path}", data)
        found = verify(memory_url)
        assert not found.ok
        # the plain checks fetch many indexes at a time, and blame a missing one on others too
        assert set(found.problems) <= set(plainly(lambda: verify(memory_url)).problems), path
        assert found.problems[0].startswith(f"{memory_url}/{path}: ")
        fs.pipe_file(f"{root}/{path}", before)


def test_whole_files_are_fetched_with_few_requests(
    tmp_path: Path, s3_server: S3Server, fault_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # pieces as they are
    store = write(tmp_path / "store")
    bucket = s3_server.new_bucket()
    tokenstore.copy(store, f"s3://{bucket}/store", storage_options=s3_server.storage_options())
    fault_proxy.clear()
    url = f"s3://{bucket}/store"
    found = verify(url, storage_options=s3_server.storage_options(fault_proxy.url))
    assert found.ok
    listed = open_storage(store).files()
    metadata = 2 * sum(path.endswith("zarr.json") for path in listed)  # which is looked at again
    assert fault_proxy.count() <= found.nbytes / 4e6 + found.files + metadata + 3
    (shards,) = {fault_proxy.count("GET", f"/{path}$") for path in listed if "labels/c/" in path}
    assert shards == -(-(store / "train/labels/c/0").stat().st_size // sound_files.PIECE_NBYTES) == 1


@pytest.mark.parametrize("nbytes", [1, 7, 50, 10**6])
def test_chunks_are_checked_whatever_pieces_a_shard_comes_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nbytes: int
) -> None:
    monkeypatch.setattr(sound_files, "_LOCAL_PIECE_NBYTES", nbytes)
    for codec in ("bitpack", "zstd", "context"):
        store = write(tmp_path / codec, codec)
        files = StoreFiles(open_storage(store))
        sound = sound_files.SoundFiles(files)
        for path, record in files.records():
            assert sound.passes(path, record), path
        path = "train/tokens/c/1/0/0"
        data = (store / path).read_bytes()
        for place in range(0, len(data), 5):
            changed = data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :]
            (store / path).write_bytes(changed)
            record = FileRecord(len(data), hashlib.sha256(changed).hexdigest())
            assert not sound.passes(path, record), (codec, place)


@pytest.mark.parametrize("path", ["train/tokens/c/0/0/0", "train/labels/c/1", "train/samples.parquet"])
def test_a_size_that_a_file_does_not_have_takes_no_memory(tmp_path: Path, memory_url: str, path: str) -> None:
    store, size = write(tmp_path / "store"), 10**8
    tokenstore.copy(store, memory_url)

    def enter(root: dict[str, Any]) -> None:
        root["attributes"]["tokenstore"]["files"][path][0] = size

    edit_root(store, enter)
    fs, root = fsspec.core.url_to_fs(memory_url)
    fs.pipe_file(f"{root}/zarr.json", (store / "zarr.json").read_bytes())
    found: list[Verification] = []
    assert peak_nbytes(lambda: found.append(verify(memory_url))) < 20e6  # a list of all pieces has 200 MB
    assert found[0].problems[0].startswith(f"{memory_url}/{path}: expected {size} bytes, found ")


def test_no_table_waits_for_a_large_shard_which_may_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory_url: str
) -> None:
    store = write(tmp_path / "store")
    tokenstore.copy(store, memory_url)
    files = StoreFiles(open_storage(memory_url))
    sizes = [record.size for path, record in files.records() if "labels/c/" in path]
    for limit, waits in ((max(sizes), True), (min(sizes) - 1, False)):
        monkeypatch.setattr(sound_files, "PIECE_NBYTES", limit)
        sound, path = sound_files.SoundFiles(files), "train/samples.parquet"
        assert len(list(sound.announced(files.records()))) == len(list(files.records()))
        table = threading.Thread(target=sound.passes, args=(path, files.record(path)))
        table.start()
        table.join(0.2 if waits else 60)
        assert table.is_alive() == waits
        for shard, record in files.records():
            if shard != path:
                assert sound.passes(shard, record)
        table.join(60)
        assert not table.is_alive()
        assert sound.table_problems == {path: []}


def test_no_request_follows_the_end_of_a_verification(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, looks, begun = StoreFiles(open_storage(write(tmp_path / "store"))), list[str](), threading.Event()

    layout = files.layout

    def slow(array: str) -> ArrayLayout:
        looks.append(array)
        begun.wait(60)
        return layout(array)

    monkeypatch.setattr(files, "layout", slow)
    before = set(threading.enumerate())
    sound = sound_files.SoundFiles(files)
    threading.Timer(0.05, begun.set).start()
    sound.close()
    for thread in set(threading.enumerate()) - before:
        thread.join(60)
    assert len(looks) <= 1 < len(sound.shards)


def test_a_file_is_checked_while_its_other_pieces_are_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory_url: str
) -> None:
    monkeypatch.setattr(sound_files, "_PIECES_AT_ONCE", 1)
    store = write(tmp_path / "store")
    tokenstore.copy(store, memory_url)
    events: list[str] = []
    plain, take = RemoteFolder._read_range, ShardCheck.take

    async def fetched(self: RemoteFolder, connection: Any, path: str, start: int, stop: int) -> bytes:
        events.append("fetched")
        return await plain(self, connection, path, start, stop)

    def taken(self: ShardCheck, piece: bytes) -> None:
        events.append("taken")
        take(self, piece)

    files = StoreFiles(open_storage(memory_url))
    sound, path = sound_files.SoundFiles(files), "train/tokens/c/0/0/0"
    monkeypatch.setattr(RemoteFolder, "_read_range", fetched)
    monkeypatch.setattr(ShardCheck, "take", taken)
    assert sound.passes(path, files.record(path))
    pieces = -(-files.record(path).size // sound_files.PIECE_NBYTES)
    assert events.count("fetched") == events.count("taken") == pieces > 2
    assert events.index("taken") <= 3


@pytest.mark.usefixtures("no_labels_in_memory")
def test_names_that_could_not_be_compared_with_labels_do_not_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_range(*_: Any) -> Any:
        raise StorageError("the bucket does not answer")

    store = write(tmp_path / "store")
    monkeypatch.setattr(ArrayReader, "read_range", read_range)
    assert verify(store).problems == ["the bucket does not answer"]
