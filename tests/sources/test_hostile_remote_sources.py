"""Servers and files that change, lie or fail while a source is listed and read: one clear error each."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.brightness import BrightnessTokenizer
from helpers.fault_proxy import FaultProxy
from helpers.faults import Rule, reset, status, truncate
from helpers.image_sources import contents
from helpers.object_storage import S3Server
from helpers.tar_files import shard
from helpers.waiting import PATIENT, RESIGNED

import tokenstore
from tokenstore.errors import SourceChangedError, StorageError
from tokenstore.sources import open_source
from tokenstore.sources.base import ImageSource
from tokenstore.sources.remote_files import split_url

Put = Callable[[str, bytes], None]
CLOSED = [truncate(10), truncate(0), reset(10)]


@pytest.fixture
def bucket(s3_server: S3Server) -> str:
    """Make a bucket, and return its URL."""
    return f"s3://{s3_server.new_bucket()}"


@pytest.fixture
def put(s3_server: S3Server, bucket: str) -> Put:
    """Return a function that writes an object."""
    fs = fsspec.filesystem("s3", **s3_server.storage_options())
    return lambda name, data: fs.pipe_file(f"{bucket}/{name}", data)


def opened(url: str, options: dict[str, Any] | None = None) -> ImageSource:
    source = open_source(url, source_storage_options=options)
    assert isinstance(source, ImageSource)
    return source


def tar_of(folder: Path, first: int = 0) -> bytes:
    return shard(folder / f"{first}.tar", first, 4).read_bytes()


def parquet_of(folder: Path, first: int = 0) -> bytes:
    images = [b"image %d" % number for number in range(first, first + 4)]
    pq.write_table(pa.table({"image": images}), folder / "x.parquet", row_group_size=2)
    return (folder / "x.parquet").read_bytes()


@pytest.mark.parametrize(("name", "made"), [("x.tar", tar_of), ("x.parquet", parquet_of)])
def test_a_file_that_was_replaced_after_it_was_listed_is_an_error_whatever_its_size(
    tmp_path: Path, s3_server: S3Server, bucket: str, put: Put, name: str, made: Callable[..., bytes]
) -> None:
    put(name, made(tmp_path, 10))
    source = opened(f"{bucket}/{name}", s3_server.storage_options())
    assert len(made(tmp_path, 20)) == len(made(tmp_path, 10))
    put(name, made(tmp_path, 20))
    with pytest.raises(SourceChangedError, match=rf"{name}: was replaced after it was listed"):
        contents(source)
    with pytest.raises(SourceChangedError, match="replaced"):
        tokenstore.convert(
            source, tmp_path / "x.zarr", tokenizer=BrightnessTokenizer(), workers=0, on_error="skip"
        )


@pytest.mark.parametrize("fault", [status(503), *CLOSED])
def test_answers_that_fail_now_and_then_lose_no_sample(
    tmp_path: Path, s3_server: S3Server, fault_proxy: FaultProxy, bucket: str, put: Put, fault: Any
) -> None:
    put("x.tar", tar_of(tmp_path))
    options = s3_server.storage_options(fault_proxy.url)
    split_url(bucket, options)[0].storage.retries = PATIENT
    fault_proxy.clear([Rule(fault, "GET", r"x\.tar", first=0, count=2)])
    source = opened(f"{bucket}/x.tar", options)
    fault_proxy.clear([Rule(fault, "GET", r"x\.tar", first=0, count=2)])
    assert contents(source) == [b"image %d" % number for number in range(4)]


@pytest.mark.usefixtures("no_delays")
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (status(503), "no answer within .*503"),
        *((fault, "no answer within .*the connection was closed too early") for fault in CLOSED),
        (status(206, b"few"), "expected an answer from the .* bytes that the server says the file has"),
    ],
)
def test_answers_that_always_fail_are_one_error_and_no_bad_samples(
    tmp_path: Path,
    s3_server: S3Server,
    fault_proxy: FaultProxy,
    bucket: str,
    put: Put,
    fault: Any,
    message: str,
) -> None:
    put("x.tar", tar_of(tmp_path))
    options = s3_server.storage_options(fault_proxy.url)
    source = opened(f"{bucket}/x.tar", options)
    split_url(bucket, options)[0].storage.retries = RESIGNED
    fault_proxy.clear([Rule(fault, "GET", r"x\.tar")])
    with pytest.raises(StorageError, match=rf"x\.tar: {message}") as caught:
        contents(source)
    assert len(str(caught.value).splitlines()) == 1


def test_odd_names_of_a_listing_are_read_as_they_are_or_said_to_be_left_out(
    s3_server: S3Server, bucket: str, put: Put
) -> None:
    images = ["a b.jpg", "a+b.jpg", "%41.jpg", "é.jpg", "c#?&.jpg", "'\"<>.jpg", "x/z.jpg"]
    for name in [*images, "x//y.jpg", "x/", "../up.jpg", "x/./dot.jpg", "a.jpg ", ".hidden.jpg"]:
        put(f"images/{name}", name.encode())
    options = s3_server.storage_options()
    source = open_source(f"{bucket}/images/", no_labels=True, source_storage_options=options)
    assert isinstance(source, ImageSource)
    assert contents(source) == sorted(name.encode() for name in images)
    assert source.notes == (
        "files skipped, as their names do not end like an image's: 1 (first: a.jpg )",
        "files and folders skipped whose paths have an empty part, as in a//b: 1 (first: x/)",
    )


def listing(*keys: str, token: str | None = None, truncated: bool = False) -> bytes:
    """Return a part of a listing as S3 sends one."""
    items = "".join(
        f"<Contents><Key>{escape(key)}</Key><Size>3</Size><ETag>x</ETag></Contents>" for key in keys
    )
    more = "" if token is None else f"<NextContinuationToken>{token}</NextContinuationToken>"
    return (
        '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<IsTruncated>{str(truncated).lower()}</IsTruncated>{more}{items}</ListBucketResult>"
    ).encode()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (listing("elsewhere/x.jpg"), "the server lists 'elsewhere/x.jpg', which is not in 'images/'"),
        (listing("images/a/b.jpg"), "which is not in 'images/'"),
        (listing("images/x.jpg", truncated=True), "ends its listing early"),
        (listing("images/x.jpg", token="t", truncated=True), "the same part of its listing again"),
    ],
)
def test_a_listing_that_is_none_is_one_error(
    s3_server: S3Server, fault_proxy: FaultProxy, bucket: str, answer: bytes, message: str
) -> None:
    fault_proxy.clear([Rule(status(200, answer), "GET", "list-type=2")])
    with pytest.raises(StorageError, match=message):
        open_source(f"{bucket}/images", source_storage_options=s3_server.storage_options(fault_proxy.url))


@contextmanager
def web_server(data: bytes, version: Callable[[], str]) -> Iterator[str]:
    """Serve one file, whose version is a new one for each answer, at the URL that is yielded."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            first, last = self.headers["Range"].removeprefix("bytes=").split("-")
            body = data[int(first) : int(last) + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{int(first) + len(body) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", version())
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/x.tar"
        server.shutdown()


def test_servers_of_one_place_may_tell_versions_of_their_own(tmp_path: Path) -> None:
    versions = iter(['"a"', '"a"', '"b"', '"b"', '"a"', '"b"', '"b"', '"b"', '"b"'])
    with web_server(tar_of(tmp_path), lambda: next(versions)) as url:
        assert contents(opened(url)) == [b"image %d" % number for number in range(4)]
    assert next(versions) == '"b"'


def test_a_file_of_a_web_server_that_was_replaced_is_an_error(tmp_path: Path) -> None:
    told = ['"a"']
    with web_server(tar_of(tmp_path), lambda: told[0]) as url:
        source = opened(url)
        assert contents(source)
        told[0] = 'W/"a"'  # which says the same
        assert contents(source)
        told[0] = '"b"'
        with pytest.raises(SourceChangedError, match="replaced"):
            contents(source)
