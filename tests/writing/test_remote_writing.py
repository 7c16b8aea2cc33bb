"""A conversion to S3 through a network that fails writes what a conversion to the local disk writes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import faults
from helpers.fault_proxy import FaultProxy
from helpers.faults import Fault, Request, Rule
from helpers.object_storage import S3Server
from helpers.stores import random_codes, write_store
from helpers.waiting import HANG, PATIENT, wait_until

from tokenstore.conversion.convert import convert_source
from tokenstore.conversion.options import Conversion, ConvertOptions
from tokenstore.errors import IncompleteStoreError, NotAStoreError, StorageError, StoreExistsError
from tokenstore.reading import StoreFiles
from tokenstore.sources import open_source
from tokenstore.storage import STAGING, Storage, open_storage

SAMPLES = 20
OPTIONS = ConvertOptions(chunk_samples=2, shard_samples=8)
PASSING = [
    faults.status(503, b"slow down"),
    faults.lose_answer(),
    faults.truncate(1),
    faults.status(500),
    faults.reset(),
]


@pytest.fixture(scope="module")
def codes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("codes") / "codes.npy"
    np.save(path, random_codes(SAMPLES, (4, 4), 391))
    return path


@pytest.fixture(scope="module")
def expected(codes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the files that a conversion to the local disk writes."""
    out = tmp_path_factory.mktemp("local") / "a.zarr"
    converted(codes, str(out))
    return contents(open_storage(out))


def contents(storage: Storage) -> dict[str, bytes]:
    return {path: storage.read(path) for path in storage.files()}


def converted(
    codes: Path, out: str, server: S3Server | None = None, proxy: FaultProxy | None = None, **options: bool
) -> Conversion:
    storage_options = server and server.storage_options(proxy and proxy.url)
    return convert_source(open_source(codes), open_storage(out, storage_options), options=OPTIONS, **options)


def writes(proxy: FaultProxy) -> list[str]:
    """Return the written paths, in order."""
    return [request.path for request in proxy.requests if request.method == "PUT"]


def test_the_bytes_are_those_of_a_local_conversion_and_the_manifest_comes_last(
    codes: Path, expected: dict[str, bytes], s3_server: S3Server, fault_proxy: FaultProxy
) -> None:
    out = f"s3://{s3_server.new_bucket()}/deep/a.zarr"
    converted(codes, out, s3_server, fault_proxy)
    assert contents(open_storage(out, s3_server.storage_options())) == expected
    paths = writes(fault_proxy)
    assert paths[-1].endswith("/deep/a.zarr/zarr.json")
    assert sum(path.endswith("/deep/a.zarr/zarr.json") for path in paths) == 1
    shards = [path for path in paths if "/tokens/c/" in path]
    assert len(shards) == len(set(shards)) == 3
    with pytest.raises(StoreExistsError):
        converted(codes, out, s3_server)
    assert converted(codes, out, s3_server, resume=True).already_complete


def test_a_codec_that_the_codes_choose_works_there_too(
    codes: Path, tmp_path: Path, s3_server: S3Server
) -> None:
    options = ConvertOptions(codec="auto", chunk_samples=2, shard_samples=8)
    out = f"s3://{s3_server.new_bucket()}/a.zarr"
    convert_source(open_source(codes), open_storage(out, s3_server.storage_options()), options=options)
    convert_source(open_source(codes), tmp_path / "a", options=options)
    assert contents(open_storage(out, s3_server.storage_options())) == contents(open_storage(tmp_path / "a"))


@pytest.mark.thorough
def test_a_fault_at_any_of_the_writer_s_requests_changes_nothing(
    tmp_path: Path, s3_server: S3Server, fault_proxy: FaultProxy
) -> None:
    splits = {"train": (random_codes(3, (2,), 9),)}
    write_store(tmp_path / "a", splits, 9)
    expected = contents(open_storage(tmp_path / "a"))
    there = open_storage(
        f"s3://{s3_server.new_bucket()}/a.zarr", s3_server.storage_options(fault_proxy.url), PATIENT
    )
    write_store(there, splits, 9)
    requests = fault_proxy.count()
    for index in range(0, requests, 2):
        fault_proxy.clear()
        there.remove("")
        fault = PASSING[index // 2 % len(PASSING)]
        fault_proxy.clear([Rule(fault, first=index, count=1)])
        write_store(there, splits, 9)
        assert fault_proxy.requests[index].fault == fault
        fault_proxy.clear()
        assert contents(there) == expected, f"{fault} at {index}"


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(PASSING[0], marks=pytest.mark.thorough, id="503"),
        pytest.param(PASSING[1], id="lost answer"),
    ],
)
def test_every_request_of_a_conversion_failing_once_changes_nothing(
    codes: Path, expected: dict[str, bytes], s3_server: S3Server, fault_proxy: FaultProxy, fault: Fault
) -> None:
    seen: set[tuple[str, str, str | None]] = set()

    def first_time(request: Request) -> Fault | None:
        what = (request.method, request.path, request.range)
        new = what not in seen
        seen.add(what)
        return fault if new else None

    out = f"s3://{s3_server.new_bucket()}/a.zarr"
    fault_proxy.clear(first_time)
    converted(codes, out, s3_server, fault_proxy)
    assert contents(open_storage(out, s3_server.storage_options())) == expected
    assert sum(request.fault is not None for request in fault_proxy.requests) > 30


@pytest.mark.thorough
def test_shut_out_half_way_it_is_no_store_and_goes_on_later(
    codes: Path, expected: dict[str, bytes], s3_server: S3Server, fault_proxy: FaultProxy
) -> None:
    whole = f"s3://{s3_server.new_bucket()}/a.zarr"
    converted(codes, whole, s3_server, fault_proxy)
    all_writes = len(writes(fault_proxy))
    for write in (all_writes // 2, all_writes - 1):
        out = f"s3://{s3_server.new_bucket()}/a.zarr"
        fault_proxy.clear([Rule(faults.status(403), "PUT", first=write)])
        with pytest.raises(StorageError, match="access was refused"):
            converted(codes, out, s3_server, fault_proxy)
        with pytest.raises((IncompleteStoreError, NotAStoreError)):
            StoreFiles(out, s3_server.storage_options())
        converted(codes, out, s3_server, resume=True)
        assert contents(open_storage(out, s3_server.storage_options())) == expected, f"shut out at {write}"


@pytest.mark.usefixtures("no_waiting")
def test_killed_half_way_it_goes_on_without_writing_finished_shards_again(
    codes: Path, expected: dict[str, bytes], s3_server: S3Server, fault_proxy: FaultProxy
) -> None:
    out = f"s3://{s3_server.new_bucket()}/a.zarr"
    storage_options = json.dumps(s3_server.storage_options(fault_proxy.url))
    command = [sys.executable, "-m", "tokenstore_cli.main", "convert", str(codes), out, "--resume"]
    command += ["--chunk-samples", "2", "--shard-samples", "8", "--storage-options", storage_options]
    fault_proxy.clear([Rule(faults.stall(), "PUT", path=r"/train/000001\.json")])
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        wait_until(lambda: any(request.fault for request in fault_proxy.requests), process=process)
        process.send_signal(signal.SIGKILL)
        assert process.wait(HANG) == -signal.SIGKILL
    there = open_storage(out, s3_server.storage_options())
    with pytest.raises((IncompleteStoreError, NotAStoreError)):
        StoreFiles(there)
    journal = [path for path in there.files() if path.startswith(STAGING) and path.endswith(".json")]
    finished = len(journal) - 1
    assert finished > 0
    fault_proxy.clear()
    converted(codes, out, s3_server, fault_proxy, resume=True)
    assert contents(there) == expected
    again = [path for path in writes(fault_proxy) if "/tokens/c/" in path]
    assert len(again) == 3 - finished
