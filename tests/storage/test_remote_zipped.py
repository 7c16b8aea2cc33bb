"""Zip files on remote storage: what zipfile reads from them, by ranges; damage is named."""

from __future__ import annotations

import io
import re
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
from helpers import faults
from helpers.fault_proxy import FaultProxy
from helpers.faults import Rule
from helpers.object_storage import S3Server
from helpers.stores import random_codes, write_store
from helpers.waiting import PATIENT, RESIGNED
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenstore
from tokenstore.errors import DamageError, NotAStoreError, StorageError, StoreError
from tokenstore.storage import Storage, open_storage
from tokenstore.storage.remote import RemoteFolder

RANDOM = np.random.default_rng(0).bytes(700_000)
METHODS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]


def packed(members: dict[str, tuple[int, bytes]], comment: bytes = b"") -> bytes:
    """Return a zip file of members by name: (compression method, bytes)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.comment = comment
        for name, (method, data) in members.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            info.extra = b"\xfe\xca\x03\x00abc" if "/" in name else b""
            file.writestr(info, data)
    return buffer.getvalue()


@pytest.fixture
def place() -> Iterator[str]:
    url = f"memory://{uuid.uuid4().hex}/x.zip"
    yield url
    fs, path = fsspec.core.url_to_fs(url)
    if fs.exists(path):
        fs.rm(path)


def put(url: str, data: bytes) -> Storage:
    fs, path = fsspec.core.url_to_fs(url)
    fs.pipe_file(path, data)
    return open_storage(url, retries=PATIENT)


@settings(max_examples=30)
@given(
    members=st.dictionaries(
        st.sampled_from(["a", "b/c", "b/d/e", "f g", "ä"]),
        st.tuples(st.sampled_from(METHODS), st.binary(max_size=300)),
    ),
    comment=st.binary(max_size=50).filter(lambda comment: b"PK" not in comment),
    start=st.integers(0, 300),
    stop=st.integers(0, 300),
)
def test_members_are_what_zipfile_reads(
    members: dict[str, tuple[int, bytes]], comment: bytes, start: int, stop: int
) -> None:
    storage = put("memory://zip-members/x.zip", packed(members, comment))
    assert list(storage.files()) == sorted(members)
    ranges = []
    for name, (_, data) in members.items():
        assert storage.size(name) == len(data)
        assert storage.read(name) == data
        assert b"".join(storage.blocks(name)) == data
        ranges.append((name, min(start, len(data)), max(min(start, len(data)), min(stop, len(data)))))
        assert storage.read_range(*ranges[-1]) == data[slice(*ranges[-1][1:])]
    assert storage.read_ranges(ranges * 2) == [members[name][1][a:b] for name, a, b in ranges] * 2
    assert storage.exists()
    assert storage.exists("b") == any(name.startswith("b/") for name in members)
    assert not storage.exists("none")
    with pytest.raises(FileNotFoundError, match="no member none"):
        storage.read("none")


def test_a_folder_of_a_zip_file_is_read_through_a_chained_url(place: str) -> None:
    put(place, packed({"x/y/a": (0, b"123"), "x/y/z/b": (8, b"456"), "c": (0, b"7")}))
    for url in (f"zip://x/y::{place}", f"zip://x/y/::{place}"):
        storage = open_storage(url)
        assert list(storage.files()) == ["a", "z/b"]
        assert storage.read("z/b") == b"456"
        assert storage.exists()
        with pytest.raises(FileNotFoundError):
            storage.read("c")
    assert list(open_storage(f"zip::{place}").files()) == ["c", "x/y/a", "x/y/z/b"]
    assert not open_storage(f"zip://none::{place}").exists()


def test_a_large_directory_is_read_whole(place: str) -> None:
    members = {f"folder/{number:0100}": (0, b"%d" % number) for number in range(3000)}
    storage = put(place, packed(members, b"c" * 65_000))
    assert list(storage.files()) == sorted(members)
    wanted = list(members)[::601]
    assert [storage.read(name) for name in wanted] == [members[name][1] for name in wanted]


def test_a_zip_file_cannot_be_changed(place: str, tmp_path: Path) -> None:
    storage = put(place, packed({"a": (0, b"1")}))
    (tmp_path / "f").write_bytes(b"")
    for change in (
        lambda: storage.write("a", b""),
        lambda: storage.move_into_place(tmp_path / "f", "a"),
        lambda: storage.remove("a"),
    ):
        with pytest.raises(StoreError, match=r"x\.zip: a zip file can only be written to a local path"):
            change()
    assert (tmp_path / "f").exists()
    assert storage.read("a") == b"1"


def test_damage_anywhere_is_named_or_changes_nothing(place: str) -> None:
    members = {"a": (0, RANDOM[:50]), "b/c": (8, b"1" * 500), "d": (0, RANDOM[:5])}
    whole = packed(members)
    for offset in range(len(whole)):
        storage = put(place, whole[:offset] + bytes([whole[offset] ^ 0x55]) + whole[offset + 1 :])
        for name, (_, data) in members.items():
            found = read_or_refused(storage, name)
            assert found == data or re.match(rf"{re.escape(place)}.*(Restore|no member)", str(found))


def read_or_refused(storage: Storage, name: str) -> bytes | Exception:
    try:
        return storage.read(name)
    except (DamageError, FileNotFoundError) as error:
        return error


def test_a_zip_file_that_was_cut_off_is_damaged(place: str) -> None:
    whole = packed({"a": (0, RANDOM[:1000]), "b": (8, RANDOM[:1000])})
    for size in (0, 1, 21, 100, len(whole) // 2, len(whole) - 1):
        with pytest.raises(DamageError, match=r"x\.zip: not a whole zip file: .*Restore it from a copy"):
            put(place, whole[:size]).read("a")


def test_a_member_that_is_stored_much_longer_than_it_says_is_not_fetched(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Enter ten bytes in the directory for a member of which 700,000 are stored."""
    whole = packed({"a": (8, RANDOM)})
    entry = whole.index(b"PK\1\2")
    storage = put(place, whole[: entry + 24] + (10).to_bytes(4, "little") + whole[entry + 28 :])
    sizes = []
    plain = RemoteFolder.read_ranges
    monkeypatch.setattr(
        RemoteFolder,
        "read_ranges",
        lambda self, ranges, *more: (
            sizes.extend(stop - start for _, start, stop in ranges) or plain(self, ranges, *more)
        ),
    )
    with pytest.raises(DamageError, match="a is not where the directory says"):
        storage.read("a")
    assert sum(sizes) < 1000


def test_a_range_beyond_a_member_is_damage(place: str) -> None:
    storage = put(place, packed({"a": (0, b"12345"), "b": (0, b"67890")}))
    with pytest.raises(DamageError, match="a: expected bytes 3 to 6, found 5 bytes"):
        storage.read_range("a", 3, 6)


@pytest.fixture
def on_s3(s3_server: S3Server, fault_proxy: FaultProxy) -> Storage:
    """Open a folder of a bucket, seen through a network."""
    url = f"s3://{s3_server.new_bucket()}/deep"
    return RemoteFolder(url, s3_server.storage_options(fault_proxy.url), PATIENT)


def zip_file(folder: RemoteFolder, name: str) -> Storage:
    """Open a zip file in a folder of a bucket."""
    return open_storage(f"{folder.url}/{name}", folder.storage_options, PATIENT)


def test_the_directory_is_read_once_and_then_a_range_is_a_request(
    on_s3: RemoteFolder, fault_proxy: FaultProxy
) -> None:
    on_s3.write("x.zip", packed({"a": (0, RANDOM), "b": (0, RANDOM[::-1])}))
    fault_proxy.clear()
    storage = zip_file(on_s3, "x.zip")
    assert storage.read_range("a", 500_000, 500_010) == RANDOM[500_000:500_010]
    assert fault_proxy.sent < 2**18 + 1000
    fault_proxy.clear()
    for start in range(0, 500_000, 100_000):
        assert storage.read_range("a", start, start + 10) == RANDOM[start : start + 10]
    assert [request.method for request in fault_proxy.requests] == ["GET"] * 5
    assert fault_proxy.sent <= 50


@pytest.mark.thorough
@pytest.mark.usefixtures("no_delays")
def test_a_service_that_fails_is_not_damage(on_s3: Storage, fault_proxy: FaultProxy) -> None:
    on_s3.write("x.zip", packed({"a": (0, RANDOM)}))
    place = f"{on_s3.url}/x.zip"
    for first in range(4):
        fault_proxy.clear([Rule(faults.status(503), first=first)])
        with pytest.raises(StorageError, match=r"x\.zip: no answer within"):
            open_storage(place, on_s3.storage_options, RESIGNED).read("a")
        fault_proxy.clear([Rule(faults.reset(), first=first, count=1)])
        assert zip_file(on_s3, "x.zip").read("a") == RANDOM


def test_a_missing_zip_file_is_no_store(on_s3: RemoteFolder) -> None:
    storage = zip_file(on_s3, "none.zip")
    assert not storage.exists()
    assert not storage.exists("a")
    assert list(storage.files()) == []
    with pytest.raises(NotAStoreError, match=r"none\.zip: no such file or folder"):
        tokenstore.open(f"{on_s3.url}/none.zip", storage_options=on_s3.storage_options)


def test_a_store_is_read_from_a_zip_file_on_s3(on_s3: RemoteFolder, tmp_path: Path) -> None:
    codes = random_codes(20, (4, 4), 391)
    write_store(tmp_path / "s.zip", {"train": (codes,)}, chunk_samples=2, shard_samples=8)
    on_s3.move_into_place(tmp_path / "s.zip", "s.zip")
    assert not (tmp_path / "s.zip").exists()
    for url in (f"{on_s3.url}/s.zip", f"zip::{on_s3.url}/s.zip"):
        store = tokenstore.open(url, storage_options=on_s3.storage_options)
        np.testing.assert_array_equal(store["train"].read("tokens", np.arange(20)[::-1]), codes[::-1])
        assert str(store.files.storage) == f"{on_s3.url}/s.zip"
