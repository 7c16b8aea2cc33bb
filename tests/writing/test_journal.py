"""The journal of finished shards and the uploads that it counts, also after a crash or a power cut."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.stores import contents, few_are_many, random_codes
from helpers.waiting import HANG

import tokenstore
from tokenstore.errors import ConversionError, StorageError
from tokenstore.format import FileRecord, Skip
from tokenstore.storage import STAGING, open_storage
from tokenstore.storage.remote import RemoteFolder
from tokenstore.writing.journal import Entry, LocalJournal, open_journal
from tokenstore.writing.uploads import AT_ONCE, Uploads

CODES = random_codes(10, (2, 2), 391)
OPTIONS = {"chunk_samples": 2, "shard_samples": 2}


def entry(shard: int, part: FileRecord | None = None) -> Entry:
    files = {f"train/tokens/c/{shard}/0": FileRecord(3, "ab" * 32)}
    return Entry(2, 2 * shard + 3, None, (Skip(2 * shard, "é\n", "bad"),), files, part)


def written(folder: Path, shards: int, *, ends_part: int | None = None) -> LocalJournal:
    """Write the journal of some shards of three bytes."""
    journal = LocalJournal(folder, "train")
    for shard in range(shards):
        path = folder / f"train/tokens/c/{shard}/0"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"abc")
        journal.save_rows(shard, b"rows of %d" % shard)
        journal.append(shard, entry(shard, FileRecord(9, "cd" * 32) if shard == ends_part else None))
        if shard == ends_part:
            journal.forget_rows(shard + 1)
    return journal


@pytest.mark.parametrize("place", ["folder", "memory"])
def test_a_journal_says_what_was_appended_and_goes_on_behind_it(
    tmp_path: Path, memory_url: str, place: str
) -> None:
    storage = open_storage(tmp_path / "a" if place == "folder" else memory_url)
    for shard in range(20):
        if place == "folder":
            storage.write(f"train/tokens/c/{shard}/0", b"abc")
        journal = open_journal(storage, "train")
        assert list(journal.read()) == [entry(each) for each in range(shard)]
        journal.save_rows(shard, b"rows of %d" % shard)
        journal.append(shard, entry(shard))
        assert list(journal.rows(0, shard + 1)) == [b"rows of %d" % each for each in range(shard + 1)]


@pytest.mark.parametrize("lost", [None, 0, 2])
def test_a_remote_journal_is_read_in_batches_as_far_as_they_go(
    memory_url: str, monkeypatch: pytest.MonkeyPatch, lost: int | None
) -> None:
    monkeypatch.setattr("tokenstore.writing.journal._BATCH", 4)
    read: list[str] = []
    plain = RemoteFolder.read_files

    def counted(self: RemoteFolder, paths: list[str], *limits: Any, **options: Any) -> Any:
        answers = plain(self, paths, *limits, **options)
        read.extend(path for path, data in zip(paths, answers, strict=True) if isinstance(data, bytes))
        return answers

    monkeypatch.setattr(RemoteFolder, "read_files", counted)
    storage, shards = open_storage(memory_url), 14
    for shard in range(shards):
        journal = open_journal(storage, "train")
        assert list(journal.read()) == [entry(each) for each in range(shard)]
        journal.append(shard, entry(shard))
    if lost is not None:  # a crash came between the last entry of a batch and the batch
        storage.remove(f"{STAGING}/train/batch-{lost:06d}.json")
    read.clear()
    journal = open_journal(storage, "train")
    assert list(journal.read()) == [entry(each) for each in range(shards)]
    assert len(read) == {None: 3 + 2, 0: 14, 2: 2 + 6}[lost]
    journal.append(shards, entry(shards))
    read.clear()
    assert list(open_journal(storage, "train").read()) == [entry(each) for each in range(shards + 1)]
    assert len(read) == 3 + 3


def test_whatever_a_crash_leaves_of_the_last_entry_the_others_stand(tmp_path: Path) -> None:
    written(tmp_path, 3)
    path = tmp_path / STAGING / "train/journal"
    data = path.read_bytes()
    ends = [0, *(at + 1 for at, byte in enumerate(data) if byte == ord("\n"))]
    for stop in range(len(data) + 1):
        path.write_bytes(data[:stop])
        journal = LocalJournal(tmp_path, "train")
        whole = sum(end <= stop for end in ends) - 1
        assert list(journal.read()) == [entry(shard) for shard in range(whole)]
        journal.save_rows(whole, b"again")
        journal.append(whole, entry(whole))
        assert (
            list(LocalJournal(tmp_path, "train").read()) == [entry(shard) for shard in range(whole + 1)][:3]
        )
    for at in range(ends[1], ends[2]):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert list(LocalJournal(tmp_path, "train").read()) == [entry(0)]


def test_a_shard_whose_name_a_power_cut_lost_is_written_again(tmp_path: Path) -> None:
    written(tmp_path, 4, ends_part=1)
    (tmp_path / "train/tokens/c/3/0").unlink()
    journal = LocalJournal(tmp_path, "train")
    assert [each.part is not None for each in journal.read()] == [False, True, False]
    assert list(journal.rows(2, 3)) == [b"rows of 2"]
    (tmp_path / "train/tokens/c/2/0").write_bytes(b"ab")
    assert len(list(LocalJournal(tmp_path, "train").read())) == 2


def test_lost_rows_are_one_error(tmp_path: Path) -> None:
    journal = written(tmp_path, 2)
    (tmp_path / STAGING / "train/rows-0").write_bytes(b"rows")
    with pytest.raises(ConversionError, match="rows of finished shards are missing"):
        list(journal.rows(0, 2))
    (tmp_path / STAGING / "train/rows-0").unlink()
    with pytest.raises(ConversionError, match="rows of finished shards are missing"):
        list(journal.rows(0, 2))


@pytest.mark.parametrize("many", [False, True])
def test_a_conversion_whose_last_shards_were_lost_ends_in_the_same_bytes(tmp_path: Path, many: bool) -> None:
    np.save(tmp_path / "codes.npy", CODES)
    with few_are_many(MANY_SHARDS=2 if many else 100):
        tokenstore.convert(tmp_path / "codes.npy", tmp_path / "whole", **OPTIONS)
        out = tmp_path / "out"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tokenstore.writing.writer.encode_root", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                tokenstore.convert(tmp_path / "codes.npy", out, **OPTIONS)
        (shard,) = [path for path in out.glob("*/tokens/c/4/*/*") if path.is_file()]
        shard.unlink()
        tokenstore.convert(tmp_path / "codes.npy", out, **OPTIONS, resume=True)
    assert contents(out) == contents(tmp_path / "whole")


def test_uploads_count_in_order_and_no_more_than_a_few_are_under_way() -> None:
    uploads, sent, counted = Uploads(), [], []
    gates = [threading.Event() for _ in range(9)]
    under_way, most = set(), 0

    def send(number: int) -> int:
        nonlocal most
        under_way.add(number)
        most = max(most, len(under_way))
        assert gates[number].wait(HANG)
        sent.append(number)
        under_way.discard(number)
        return number

    for first in range(0, 9, AT_ONCE):
        for number in range(first, first + AT_ONCE):
            uploads.add(lambda number=number: send(number), counted.append)
        for number in reversed(range(first, first + AT_ONCE)):
            gates[number].set()
    uploads.wait()
    uploads.close()
    assert counted == sorted(sent) == list(range(9))
    assert most <= AT_ONCE


def test_after_a_failed_upload_nothing_counts_and_every_call_says_why() -> None:
    uploads, counted = Uploads(), []
    gate = threading.Event()

    def fail() -> int:
        assert gate.wait(HANG)
        raise StorageError("no room")

    uploads.add(lambda: 0, counted.append)
    uploads.add(fail, counted.append)
    uploads.add(lambda: 2, counted.append)
    gate.set()
    for _ in range(2):
        with pytest.raises(StorageError, match="no room"):
            uploads.wait()
        with pytest.raises(StorageError, match="no room"):
            uploads.add(lambda: 3, counted.append)
    uploads.close()
    assert counted == [0]
