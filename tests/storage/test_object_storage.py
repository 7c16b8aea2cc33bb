"""The S3 servers that other tests rely on: what they keep, whom they refuse, and that they end."""

from __future__ import annotations

import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
import s3fs
from helpers import object_storage
from helpers.object_storage import S3Server, moto_server
from helpers.waiting import HANG


@pytest.fixture(
    params=["s3_server", pytest.param("rados_gateway", marks=pytest.mark.s3_real)], ids=["moto", "ceph"]
)
def server(request: pytest.FixtureRequest) -> S3Server:
    found: S3Server = request.getfixturevalue(request.param)
    return found


def test_a_server_keeps_what_is_written_and_lists_it(server: S3Server) -> None:
    bucket = server.new_bucket()
    fs = s3fs.S3FileSystem(**server.storage_options())
    fs.pipe_file(f"{bucket}/a/b", bytes(range(256)))
    assert fs.cat_file(f"{bucket}/a/b") == bytes(range(256))
    assert fs.cat_file(f"{bucket}/a/b", start=3, end=5) == b"\x03\x04"
    assert fs.find(bucket) == [f"{bucket}/a/b"]
    assert server.new_bucket() != bucket


def test_whoever_signs_with_a_wrong_secret_or_not_at_all_is_refused(server: S3Server) -> None:
    bucket = server.new_bucket()
    with pytest.raises(PermissionError):
        s3fs.S3FileSystem(**replace(server, secret="wrong").storage_options()).ls(bucket)
    with pytest.raises(PermissionError):
        s3fs.S3FileSystem(**replace(server, key="nobody").storage_options()).ls(bucket)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{server.endpoint}/{bucket}", timeout=HANG)
    with refused.value:
        assert refused.value.code in (403, 500)  # 500: moto falls over a request that has no signature


def test_a_secret_is_not_shown() -> None:
    assert "hidden" not in repr(S3Server("http://127.0.0.1:1", "key", "hidden"))


def test_a_server_ends_with_its_test_run_also_when_a_test_fails() -> None:
    with pytest.raises(ZeroDivisionError), moto_server() as server:
        _ = 1 / 0
    with pytest.raises(urllib.error.URLError, match="refused"):
        urllib.request.urlopen(server.endpoint, timeout=HANG)


def test_a_server_ends_when_the_process_that_started_it_dies() -> None:
    script = str(Path(object_storage.__file__))
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, script], stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline().startswith("http://127.0.0.1:")
        process.stdin.close()
        assert process.wait(20) == 0
