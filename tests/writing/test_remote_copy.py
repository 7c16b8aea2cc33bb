"""Copies to and from S3 through a network that fails: the same bytes, or one clear error."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from helpers import faults
from helpers.fault_proxy import FaultProxy
from helpers.faults import Fault, Request, Rule
from helpers.object_storage import S3Server
from helpers.stores import random_codes, write_store
from helpers.waiting import HANG, HASTY, PATIENT, RESIGNED, wait_until
from tokenstore_cli.main import cli

from tokenstore.errors import DamageError, IncompleteStoreError, NotAStoreError, StorageError
from tokenstore.reading import StoreFiles, TokenStore
from tokenstore.storage import STAGING, Retries, Storage, open_storage
from tokenstore.writing.copy import copy

SHARD = "train/tokens/c/1/0/0"
PASSING = [
    faults.status(503, b"slow down"),
    faults.lose_answer(),
    faults.truncate(1),
    faults.status(500),
    faults.reset(),
    faults.reset(0),
    faults.status(429),
]
"""The faults that another attempt may not meet."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a store of three shards with labels."""
    path = tmp_path_factory.mktemp("source") / "a.zarr"
    splits = {"train": (random_codes(10, (4, 4), 391), np.arange(10, dtype=np.int32))}
    write_store(path, splits, chunk_samples=2, shard_samples=4)
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a store of one shard."""
    path = tmp_path_factory.mktemp("small") / "a.zarr"
    write_store(path, {"train": (random_codes(3, (2,), 9),)}, 9)
    return path


def contents(place: Storage | Path) -> dict[str, bytes]:
    storage = place if isinstance(place, Storage) else open_storage(place)
    return {path: storage.read(path) for path in storage.files()}


def copied(source: Storage | Path, target: Storage | Path, resume: bool = False) -> None:
    opened, written = (
        place if isinstance(place, Storage) else open_storage(place) for place in (source, target)
    )
    copy(TokenStore(StoreFiles(opened)), written, resume=resume)


def on_s3(
    server: S3Server, proxy: FaultProxy | None = None, retries: Retries = PATIENT, url: str | None = None
) -> Storage:
    """Return a place for a store on a server, seen through a network."""
    url = url or f"s3://{server.new_bucket()}/deep/a.zarr"
    return open_storage(url, server.storage_options(proxy and proxy.url), retries)


def test_to_s3_from_there_to_a_zip_file_and_within_s3(
    store: Path, tmp_path: Path, s3_server: S3Server
) -> None:
    there, again = on_s3(s3_server), on_s3(s3_server)
    copied(store, there)
    assert contents(there) == contents(store)
    copied(there, tmp_path / "b.zip")
    copied(there, again)
    assert contents(tmp_path / "b.zip") == contents(again) == contents(store)


@pytest.mark.thorough
def test_a_fault_at_any_request_changes_nothing(
    small: Path, s3_server: S3Server, fault_proxy: FaultProxy
) -> None:
    there = on_s3(s3_server, fault_proxy)
    expected = contents(small)
    copied(small, there)
    requests = fault_proxy.count()
    for index in range(requests):
        fault_proxy.clear()
        there.remove("")
        fault = PASSING[index % len(PASSING)]
        fault_proxy.clear([Rule(fault, first=index, count=1)])
        copied(small, there)
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
def test_every_request_failing_once_changes_nothing(
    store: Path, tmp_path: Path, s3_server: S3Server, fault_proxy: FaultProxy, fault: Fault
) -> None:
    seen: set[tuple[str, str, str | None]] = set()

    def first_time(request: Request) -> Fault | None:
        what = (request.method, request.path, request.range)
        new = what not in seen
        seen.add(what)
        return fault if new else None

    there = on_s3(s3_server, fault_proxy)
    fault_proxy.clear(first_time)
    copied(store, there)
    seen.clear()
    copied(there, tmp_path / "b")
    assert contents(there) == contents(tmp_path / "b") == contents(store)
    assert sum(request.fault is not None for request in fault_proxy.requests) > 30


@pytest.mark.usefixtures("no_delays")
def test_a_bit_that_flips_on_the_way_is_fetched_again_but_not_for_ever(
    store: Path, tmp_path: Path, s3_server: S3Server, fault_proxy: FaultProxy
) -> None:
    there = on_s3(s3_server, fault_proxy)
    copied(store, there)
    fault_proxy.clear([Rule(faults.flip(5), "GET", SHARD, count=1)])
    copied(there, tmp_path / "b")
    assert contents(tmp_path / "b") == contents(store)
    fault_proxy.clear([Rule(faults.flip(5), "GET", SHARD)])
    # subtle: S3's own checksums may notice first
    with pytest.raises((DamageError, StorageError), match=SHARD):
        copied(on_s3(s3_server, fault_proxy, RESIGNED, there.url), tmp_path / "c")
    with pytest.raises(IncompleteStoreError):
        StoreFiles(tmp_path / "c")


@pytest.mark.usefixtures("no_delays")
@pytest.mark.parametrize(
    ("fault", "method", "message"),
    [
        (faults.status(503), "PUT", "no answer within"),
        (faults.stall(), "GET", "no answer within"),
        (faults.reset(), "GET", "no answer within"),
        (faults.status(403), "PUT", "access was refused"),
    ],
    ids=["503", "stall", "reset", "403"],
)
def test_a_service_that_stays_away_is_one_clear_error_and_the_copy_goes_on_later(
    small: Path, s3_server: S3Server, fault_proxy: FaultProxy, fault: Fault, method: str, message: str
) -> None:
    retries = HASTY if fault == faults.stall() else RESIGNED
    there = on_s3(s3_server, fault_proxy, retries)
    assert not there.exists("connected")
    fault_proxy.clear([Rule(fault, method, first=1)])
    with pytest.raises(StorageError, match=message) as error:
        copied(small, there)
    assert there.url in str(error.value)
    patient = on_s3(s3_server, url=there.url)
    copied(small, patient, resume=True)
    assert contents(patient) == contents(small)


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("killed_at", [1, pytest.param(9, marks=pytest.mark.thorough)])
def test_killed_half_way_it_goes_on_and_sends_only_the_rest(
    store: Path, s3_server: S3Server, fault_proxy: FaultProxy, killed_at: int
) -> None:
    there = on_s3(s3_server, fault_proxy)
    fault_proxy.clear([Rule(faults.stall(), "PUT", first=killed_at)])
    options = json.dumps(s3_server.storage_options(fault_proxy.url))
    command = ["copy", str(store), there.url, "--target-storage-options", options]
    with subprocess.Popen([sys.executable, "-m", "tokenstore_cli.main", *command]) as process:
        wait_until(lambda: any(request.fault for request in fault_proxy.requests), process=process)
        process.send_signal(signal.SIGKILL)
        assert process.wait(HANG) == -signal.SIGKILL
    with pytest.raises((IncompleteStoreError, NotAStoreError)):
        StoreFiles(there)
    kept = [path for path in there.files() if not path.startswith(STAGING)]
    fault_proxy.clear()
    copied(store, there, resume=True)
    assert contents(there) == contents(store)
    sent = [request.path for request in fault_proxy.requests if request.method == "PUT"]
    assert not [path for path in kept if any(put.endswith(f"a.zarr/{path}") for put in sent)]
    assert sent[-1].endswith("/deep/a.zarr/zarr.json")


def run(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def test_the_command_takes_options_for_either_side_and_prints_no_secret(
    store: Path, s3_server: S3Server, tmp_path: Path
) -> None:
    url = f"s3://{s3_server.new_bucket()}/a.zarr"
    options = json.dumps(s3_server.storage_options())
    wrong = json.dumps({**s3_server.storage_options(), "secret": "wrong-secret"})
    outputs = [
        run("copy", store, url, "--target-storage-options", options),
        run("copy", url, tmp_path / "b", "--storage-options", options),
        run("copy", url, tmp_path / "c", "--storage-options", wrong),
        run("copy", store, f"{url}2", "--target-storage-options", wrong),
    ]
    assert [result.exit_code for result in outputs] == [0, 0, 1, 1]
    for result in outputs:
        for secret in (s3_server.secret, s3_server.key, "wrong-secret"):
            assert secret not in result.output


@pytest.mark.s3_real
def test_to_a_real_s3_server_and_back(tmp_path: Path, rados_gateway: S3Server) -> None:
    write_store(tmp_path / "a", {"train": (random_codes(7000, (100, 100), 256),)}, 256)
    there = on_s3(rados_gateway)
    copied(tmp_path / "a", there)
    copied(there, tmp_path / "b")
    assert contents(tmp_path / "b") == contents(tmp_path / "a")
