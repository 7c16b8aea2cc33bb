"""All files at a URL, listed as fsspec lists them and removed: on S3 a page at a time."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace
from typing import Any

import botocore.parsers
import pytest
import s3fs
from fsspec.implementations.memory import MemoryFileSystem
from helpers.object_storage import S3Server
from helpers.waiting import RESIGNED

from tokenstore.errors import StorageError
from tokenstore.storage.remote import RemoteFolder
from tokenstore.storage.remote.s3 import S3Files, _leave_out_times

FILES = {
    "zarr.json": 3,
    "a/b": 1,
    "a/b.c": 2,
    "a/b/c": 5,
    "a/ü ß%20+&": 4,
    "train/tokens/c/0/0": 0,
    "train/tokens/c/1/0": 7,
}
"""The sizes of files, by their paths."""


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Let S3 list three names a page; return the tokens of the pages that were asked for."""
    plain, tokens = S3Files._answer, []

    async def answer(self: S3Files, bucket: str, below: str, token: str | None, **more: Any) -> Any:
        tokens.append(token)
        return await plain(self, bucket, below, token, MaxKeys=3, **more)

    monkeypatch.setattr(S3Files, "_answer", answer)
    return tokens


@pytest.fixture
def bucket(s3_server: S3Server) -> str:
    """Write the files, and others whose keys begin alike, which are not below the same folder."""
    name = s3_server.new_bucket()
    fs = s3fs.S3FileSystem(**s3_server.storage_options())
    fs.pipe({f"{name}/store/{path}": bytes(size) for path, size in FILES.items()})
    fs.pipe({f"{name}/store{path}": b"-" for path in (".zarr/x", "-old/x", "2", "s/x")})
    return name


def test_all_files_below_a_folder_are_listed_page_by_page(
    s3_server: S3Server, bucket: str, small_pages: list[Any]
) -> None:
    options = s3_server.storage_options()
    folder = RemoteFolder(f"s3://{bucket}/store", options)
    assert folder.sizes() == FILES
    assert len(small_pages) == 3
    assert len(set(small_pages)) == 3
    assert folder.files() == sorted(FILES)
    fs = s3fs.S3FileSystem(**options)
    for path in ("", "/store", "/store/", "/store/a", "/store/a/b", "/nothing", "/stor"):
        plain = fs.find(f"{bucket}{path}", detail=True)
        whole = f"{bucket}{path}".rstrip("/")
        expected = {key[len(whole) :].lstrip("/"): info["size"] for key, info in plain.items()}
        assert RemoteFolder(f"s3://{bucket}{path}", options).sizes() == expected


def test_the_times_of_files_are_not_read_where_they_have_etags(
    s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(time: object) -> None:
        raise AssertionError(f"expected no time to be read, found {time!r}")

    folder = RemoteFolder(f"s3://{bucket}/store", s3_server.storage_options())
    folder.read("zarr.json")
    monkeypatch.setattr(botocore.parsers, "DEFAULT_TIMESTAMP_PARSER", read)
    assert len(folder.read_range("zarr.json", 0, 3)) == 3
    assert folder.sizes() == FILES
    entries = {entry.name: entry for entry in folder.entries()}
    assert set(entries) == {"a", "train", "zarr.json"}
    assert entries["zarr.json"].version == f'"{hashlib.md5(bytes(3)).hexdigest()}"'


def test_a_listing_without_an_etag_for_each_file_keeps_its_times() -> None:
    bare, whole = (
        b"<Contents><Key>a</Key><LastModified>2026-11-30T00:00:00Z</LastModified>%b</Contents>" % etag
        for etag in (b"", b"<ETag>1</ETag>")
    )
    answers = [{"body": bare}, {"body": whole + bare}, {"body": whole}, {}]
    for answer in answers:
        _leave_out_times(answer, operation_model=None)
    assert answers[:2] == [{"body": bare}, {"body": whole + bare}]
    assert answers[2:] == [{"body": b"<Contents><Key>a</Key><ETag>1</ETag></Contents>"}, {}]


def test_a_file_at_the_url_itself_is_listed_without_a_name(s3_server: S3Server, bucket: str) -> None:
    assert RemoteFolder(f"s3://{bucket}/store/zarr.json", s3_server.storage_options()).sizes() == {"": 3}


def test_empty_objects_that_stand_for_folders_are_no_files(
    s3_server: S3Server, small_pages: list[Any]
) -> None:
    options, name = s3_server.storage_options(), s3_server.new_bucket()
    fs = s3fs.S3FileSystem(**options)
    for key in ("x/", "x/y/", "x/y/z", "x/z/"):
        fs.call_s3("put_object", Bucket=name, Key=key, Body=b"1" if key == "x/y/z" else b"")
    assert RemoteFolder(f"s3://{name}/x", options).files() == ["y/z"]
    assert RemoteFolder(f"s3://{name}/x/z", options).files() == []


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"Contents": [{"Key": "other/x", "Size": 1}]}, "which is not in 'store/'"),
        ({"IsTruncated": True}, "ends its listing early"),
        ({"IsTruncated": True, "NextContinuationToken": "again"}, "again and again"),
    ],
)
def test_a_server_that_lists_what_is_elsewhere_or_without_an_end_is_refused(
    s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any], message: str
) -> None:
    class Client:
        meta = SimpleNamespace(events=SimpleNamespace(register=lambda *_: None))

        async def list_objects_v2(self, **_: Any) -> dict[str, Any]:
            return answer

    async def client(bucket: str) -> Client:
        return Client()

    folder = RemoteFolder(f"s3://{bucket}/store", s3_server.storage_options())
    monkeypatch.setattr(s3fs.S3FileSystem, "get_s3", lambda self, bucket: client(bucket))
    with pytest.raises(StorageError, match=message):
        folder.files()


def test_a_folder_is_removed_page_by_page_and_what_begins_alike_stays(
    s3_server: S3Server, bucket: str, small_pages: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, plain = [], S3Files.remove

    async def noted(self: S3Files, key: str, token: str | None) -> str | None:
        steps.append(token)
        return await plain(self, key, token)

    monkeypatch.setattr(S3Files, "remove", noted)
    options = s3_server.storage_options()
    whole, folder = RemoteFolder(f"s3://{bucket}", options), RemoteFolder(f"s3://{bucket}/store", options)
    folder.remove("a/b.c")
    assert folder.sizes() == {path: size for path, size in FILES.items() if path != "a/b.c"}
    steps.clear()
    folder.remove()
    assert len(steps) == 2, "a page and its own time for every three files"
    assert whole.files() == ["store-old/x", "store.zarr/x", "store2", "stores/x"]
    folder.remove()
    folder.remove("nothing")


@pytest.mark.usefixtures("no_delays")
def test_what_a_server_does_not_remove_is_an_error(
    s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = s3_server.storage_options()
    folder = RemoteFolder(f"s3://{bucket}/store", options, RESIGNED)
    plain, answer = s3fs.S3FileSystem.get_s3, dict[str, Any]()

    async def get_s3(self: Any, bucket: str) -> Any:
        client = await plain(self, bucket)

        async def delete_objects(**_: Any) -> dict[str, Any]:
            return answer

        listing = client.list_objects_v2
        return SimpleNamespace(meta=client.meta, list_objects_v2=listing, delete_objects=delete_objects)

    monkeypatch.setattr(s3fs.S3FileSystem, "get_s3", get_s3)
    with pytest.raises(StorageError, match="a/b: was not removed"):
        folder.remove()
    answer["Errors"] = [{"Key": "store/zarr.json", "Code": "AccessDenied"}]
    with pytest.raises(StorageError, match=r"store/zarr\.json: was not removed: AccessDenied"):
        folder.remove()


def test_another_kind_of_storage_lists_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    fs = MemoryFileSystem()
    fs.pipe({f"/listed-files/store/{path}": bytes(size) for path, size in FILES.items() if path != "a/b"})
    folder = RemoteFolder("memory://listed-files/store")
    assert folder.sizes() == {path: size for path, size in FILES.items() if path != "a/b"}
    assert folder.files() == sorted(folder.sizes())
    plain = MemoryFileSystem.find

    def without_sizes(self: Any, *arguments: Any, **options: Any) -> Any:
        found = plain(self, *arguments, **options)
        return {key: {**info, "size": None} for key, info in found.items()}

    monkeypatch.setattr(MemoryFileSystem, "find", without_sizes)
    assert (len(folder.files()), folder.sizes()) == (len(FILES) - 1, {})
