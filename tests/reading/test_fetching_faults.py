"""Reading a store from S3 through faults of the network: the right codes, or one clear error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import faults
from helpers.fault_proxy import FaultProxy
from helpers.faults import Fault, Rule
from helpers.fetched_stores import CODES, LABELS, check_epoch, opened
from helpers.object_storage import S3Server
from helpers.stores import write_store
from helpers.waiting import HASTY, PATIENT, RESIGNED, RESTLESS

from tokenstore import Retries, TokenDataset, TokenLoader
from tokenstore.errors import DamageError, StorageError, TokenstoreError
from tokenstore.storage import open_storage
from tokenstore.storage.remote import RemoteFolder

PASSING = {
    "late": faults.latency(0.02),
    "503": faults.status(503, b"<Error><Code>SlowDown</Code></Error>"),
    "500": faults.status(500),
    "reset": faults.reset(),
    "reset in the body": faults.reset(after=7),
    "truncated": faults.truncate(after=9),
    "stalled": faults.stall(),
    "stalled in the body": faults.stall(after=3),
    "flipped bit": faults.flip(5),
}


@pytest.mark.parametrize("name", PASSING)
def test_a_fault_that_passes_changes_nothing(
    url: str, s3_server: S3Server, fault_proxy: FaultProxy, each_chunk_alone: None, name: str
) -> None:
    """Let each request of an epoch meet the fault once."""
    seen = set()

    def once(request: Any) -> Fault | None:
        what = (request.method, request.path, request.range)
        first = what not in seen
        seen.add(what)
        return PASSING[name] if first else None

    fault_proxy.clear(once)
    if name == "flipped bit":
        fault_proxy.clear([])
    retries = RESTLESS if name.startswith("stalled") else PATIENT
    dataset = opened(url, s3_server, fault_proxy, retries=retries)
    fault_proxy.clear(once)
    check_epoch(TokenLoader(dataset, 16, shuffle=True, num_threads=2))
    assert sum(request.fault is not None for request in fault_proxy.requests) >= 23


FATAL = {
    "503": (faults.status(503), StorageError, "503"),
    "403": (faults.status(403, b"<Error><Code>AccessDenied</Code></Error>"), StorageError, "refused"),
    "reset": (faults.reset(), StorageError, "no answer within"),
    "truncated": (faults.truncate(after=9), StorageError, "no answer within"),
    "stalled": (faults.stall(), StorageError, "no answer within"),
    "flipped bit": (faults.flip(5), DamageError, "CRC"),
    "missing": (faults.status(404), DamageError, "missing"),
}


def wait_for(dataset: TokenDataset, retries: Retries) -> None:
    """Change how long a store that is open is waited for."""
    remote = dataset.reader.store.storage
    assert isinstance(remote, RemoteFolder)
    remote.retries = retries


@pytest.mark.usefixtures("no_delays")
@pytest.mark.parametrize(
    ("name", "path"),
    [*((name, "tokens/c/1/") for name in FATAL), ("503", "labels/c/"), ("flipped bit", "labels/c/")],
)
def test_a_fault_that_stays_is_one_clear_error(
    url: str, s3_server: S3Server, fault_proxy: FaultProxy, each_chunk_alone: None, name: str, path: str
) -> None:
    fault, error, match = FATAL[name]
    dataset = opened(url, s3_server, fault_proxy)
    fault_proxy.clear([Rule(fault, path=path)])
    wait_for(dataset, HASTY if name == "stalled" else RESIGNED)
    with pytest.raises(error, match=match) as raised:
        check_epoch(TokenLoader(dataset, 16, shuffle=True, num_threads=2))
    assert url in str(raised.value)
    assert s3_server.secret not in str(raised.value)
    fault_proxy.clear()
    wait_for(dataset, PATIENT)
    check_epoch(TokenLoader(dataset, 16, shuffle=True))


def test_a_damaged_chunk_is_fetched_again_and_then_named(
    url: str, s3_server: S3Server, fault_proxy: FaultProxy, each_chunk_alone: None
) -> None:
    dataset = opened(url, s3_server, fault_proxy, columns=["tokens"])
    assert dataset[0].shape == (4, 6)
    fault_proxy.clear([Rule(faults.flip(5))])
    with pytest.raises(DamageError, match=rf"{url}/train/tokens shard 0 chunk 3 \(samples 48 to 63\).*CRC"):
        dataset[50]
    assert fault_proxy.count(path="/c/") == 2, "it is fetched once more, and then given up"
    fault_proxy.clear([Rule(faults.flip(5), count=1)])
    np.testing.assert_array_equal(dataset[50], CODES[50])
    assert fault_proxy.count() == 2


def failure_of(action: Callable[[], None]) -> TokenstoreError | None:
    try:
        action()
    except (StorageError, DamageError) as error:
        return error
    return None


def epoch_at(url: str, options: dict[str, Any], retries: Retries) -> None:
    dataset = TokenDataset(url, storage_options=options, retries=retries)
    check_epoch(TokenLoader(dataset, 16, shuffle=True, num_threads=2, shuffle_window=64))


@pytest.mark.slow
@pytest.mark.usefixtures("no_delays")
@pytest.mark.parametrize("name", PASSING)
@pytest.mark.parametrize("stays", [False, True])
def test_faults_at_every_request_of_an_epoch(
    s3_server: S3Server, fault_proxy: FaultProxy, each_chunk_alone: None, name: str, stays: bool
) -> None:
    """Read through 200 requests; the fault passes, or stays from one on: right codes or one error."""
    url = f"s3://{s3_server.new_bucket()}/a.zarr"
    writer = open_storage(url, s3_server.storage_options())
    write_store(writer, {"train": (CODES, LABELS)}, chunk_samples=2, shard_samples=4 * 16)
    options = s3_server.storage_options(fault_proxy.url)
    retries = HASTY if stays else RESTLESS
    epoch_at(url, options, Retries())
    requests = fault_proxy.count()
    assert requests >= 150
    for index in range(0, requests, 7 if stays else 1):
        fault_proxy.clear([Rule(PASSING[name], first=index, count=None if stays else 1)])
        failure = failure_of(lambda: epoch_at(url, options, retries))
        # A changed bit of metadata is an error at once; of a chunk, it is asked for again.
        assert failure is None or stays or name == "flipped bit", f"{name} at {index}: {failure}"
        assert failure is None or url in str(failure)


@pytest.mark.usefixtures("no_delays")
def test_an_error_does_not_stay_for_the_next_reader(
    url: str, s3_server: S3Server, fault_proxy: FaultProxy
) -> None:
    dataset = opened(url, s3_server, fault_proxy)
    fault_proxy.clear([Rule(faults.status(503), path="tokens/c/")])
    wait_for(dataset, RESIGNED)
    for _ in range(2):
        with pytest.raises(StorageError):
            dataset[0]
    fault_proxy.clear()
    wait_for(dataset, PATIENT)
    np.testing.assert_array_equal(dataset[0][0], CODES[0])
