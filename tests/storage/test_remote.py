"""Remote storage through a network that fails: the right bytes, or one clear error before the deadline."""

from __future__ import annotations

import logging
import re
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from helpers import faults
from helpers.fault_proxy import FaultProxy
from helpers.faults import Fault, Rule
from helpers.object_storage import S3Server
from helpers.stores import random_codes, write_store
from helpers.waiting import BRIEF, PATIENT, RESIGNED, RESTLESS, wait_until

import tokenstore
from tokenstore.errors import ArgumentError, DamageError, StorageError, StoreError
from tokenstore.storage import Retries
from tokenstore.storage.remote import RemoteFolder

DATA = np.random.default_rng(0).bytes(300_000)
RANGES = [("a/data", start, start + 1000 + start % 7) for start in range(0, 60_000, 6_000)]
SECRETS = {"key": "AKIDSECRETSECRET", "secret": "s3cr3t/w1th+sl4sh", "token": "t0k3nt0k3n"}

Operation = Callable[[RemoteFolder], Any]
READS: dict[str, Operation] = {
    "read": lambda remote: remote.read("a/data") == DATA,
    "range": lambda remote: remote.read_range("a/data", 7, 250_000) == DATA[7:250_000],
    "ranges": lambda remote: remote.read_ranges(RANGES) == [DATA[start:stop] for _, start, stop in RANGES],
    "in turn": lambda remote: (
        list(remote.ranges_in_turn(RANGES, 3)) == [DATA[start:stop] for _, start, stop in RANGES]
    ),
    "list": lambda remote: "a/data" in remote.files(),
}
HEADS: dict[str, Operation] = {
    "size": lambda remote: remote.size("a/data") == len(DATA),
    "exists": lambda remote: remote.exists("a") and not remote.exists("b"),
    "write": lambda remote: remote.write("w", DATA) or remote.read("w") == DATA,
}
SUDDEN = {
    "500": faults.status(500),
    "503": faults.status(503, b"<Error><Code>SlowDown</Code></Error>"),
    "429": faults.status(429),
    "reset": faults.reset(),
    "lost": faults.lose_answer(),
}
IN_THE_BODY = {
    "reset inside": faults.reset(50),
    "truncated": faults.truncate(50),
    "truncated at once": faults.truncate(0),
}
SLOW = {"stall": faults.stall(), "stall inside": faults.stall(50), "drip": faults.drip(40)}


@pytest.fixture(scope="module")
def network(s3_server: S3Server) -> Iterator[FaultProxy]:
    with FaultProxy(s3_server.endpoint) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def bucket(s3_server: S3Server) -> str:
    return s3_server.new_bucket()


@pytest.fixture(scope="module")
def opened(s3_server: S3Server, bucket: str, network: FaultProxy) -> dict[Retries, RemoteFolder]:
    """Give remotes of one folder by their patience, all through the network and all connected."""
    options = s3_server.storage_options(network.url)
    patience = (BRIEF, PATIENT, RESIGNED, RESTLESS)
    remotes = {retries: RemoteFolder(f"s3://{bucket}/store", options, retries) for retries in patience}
    for remote in remotes.values():
        refusal(lambda remote: remote.read("a/none"), remote)
    remotes[PATIENT].write("a/data", DATA)
    return remotes


@pytest.fixture
def remote(opened: dict[Retries, RemoteFolder], network: FaultProxy) -> Iterator[RemoteFolder]:
    """Give a RemoteFolder that waits long enough for a fault to pass."""
    network.clear()
    yield opened[PATIENT]
    network.clear()


@pytest.fixture
def hasty(opened: dict[Retries, RemoteFolder], network: FaultProxy) -> Iterator[RemoteFolder]:
    """Give a RemoteFolder that soon gives up."""
    network.clear()
    yield opened[BRIEF]
    network.clear()


@pytest.fixture
def resigned(
    opened: dict[Retries, RemoteFolder], network: FaultProxy, no_delays: None
) -> Iterator[RemoteFolder]:
    """Give a RemoteFolder that gives up after a few attempts, without delays between them."""
    network.clear()
    yield opened[RESIGNED]
    network.clear()


def refusal(operation: Operation, remote: RemoteFolder) -> Exception:
    """Return the error that an operation raises."""
    with pytest.raises((OSError, DamageError)) as caught:
        operation(remote)
    return caught.value


def test_what_is_written_is_read_listed_and_removed(remote: RemoteFolder) -> None:
    remote.write("b/c/data", b"12345")
    remote.write("b/empty", b"")
    assert remote.read("b/c/data") == b"12345"
    assert remote.read("b/empty") == b""
    assert remote.read_range("b/c/data", 1, 3) == b"23"
    assert remote.read_range("b/c/data", 4, 4) == b""
    assert remote.read_ranges([]) == []
    assert remote.size("b/c/data") == 5
    assert [path for path in remote.files() if path.startswith("b/")] == ["b/c/data", "b/empty"]
    assert [remote.exists(path) for path in ("", "b", "b/c", "b/c/data", "b/c/dat")] == [True] * 4 + [False]
    remote.remove("b")
    remote.remove("b")
    assert not any(path.startswith("b/") for path in remote.files())
    assert not remote.exists("b")


def test_a_large_file_is_read_in_blocks(remote: RemoteFolder, network: FaultProxy) -> None:
    for size in (2**18 - 1, 2**18, 2**18 + 1, 2**18 + 2**23 + 5):
        data = np.random.default_rng(size).bytes(size)
        remote.write("large", data)
        network.clear()
        assert remote.read("large") == data
        assert network.sent <= size + 500
    remote.remove("large")


@pytest.mark.parametrize("fault", [*SUDDEN.values(), *IN_THE_BODY.values()], ids=[*SUDDEN, *IN_THE_BODY])
def test_a_fault_that_passes_changes_nothing(remote: RemoteFolder, network: FaultProxy, fault: Fault) -> None:
    for name, operation in (READS if fault in IN_THE_BODY.values() else {**READS, **HEADS}).items():
        network.clear([Rule(fault, count=2)])
        assert operation(remote), name
        assert sum(request.fault is not None for request in network.requests) == 2, name


@pytest.mark.parametrize("fault", SLOW.values(), ids=SLOW)
def test_an_answer_that_does_not_end_is_asked_for_again(
    opened: dict[Retries, RemoteFolder], network: FaultProxy, fault: Fault
) -> None:
    network.clear(lambda request: fault if request.index == 0 else None)
    assert READS["range"](opened[RESTLESS])
    assert len(network.requests) >= 2


@pytest.mark.parametrize(
    "fault", [*SUDDEN.values(), *IN_THE_BODY.values(), *SLOW.values()], ids=[*SUDDEN, *IN_THE_BODY, *SLOW]
)
def test_a_fault_that_stays_is_one_error_before_the_deadline(
    hasty: RemoteFolder, network: FaultProxy, fault: Fault
) -> None:
    sudden = fault in (*SUDDEN.values(), SLOW["stall"])
    operations = {**READS, **HEADS} if sudden else READS
    network.clear([Rule(fault)])
    with ThreadPoolExecutor(len(operations)) as threads:
        ends = threads.map(lambda operation: refusal(operation, hasty), operations.values())
    for name, error in zip(operations, ends, strict=True):
        assert isinstance(error, StorageError), name
        assert re.fullmatch(
            rf"{re.escape(hasty.url)}\S*: no answer within [01]\.\d+ s \((\d+ attempts|1 attempt); the last: "
            r"[^)]+\)?\)\. Check the address and the service; "
            r"TOKENSTORE_STORAGE_DEADLINE=SECONDS in the environment waits longer or less",
            str(error),
        ), name
    network.clear()
    wait_until(lambda: network.most_under_way == 0, between=network.clear)


def test_attempts_are_ours_alone_and_counted(resigned: RemoteFolder, network: FaultProxy) -> None:
    network.clear([Rule(faults.status(503))])
    error = refusal(READS["range"], resigned)
    counted = re.search(r"(\d+) attempts; the last: 503 Service Unavailable", str(error))
    assert counted is not None
    assert int(counted[1]) == len(network.requests) > 3


@pytest.mark.parametrize("status", [400, 401, 403, 405, 501])
def test_what_cannot_get_better_is_asked_once(remote: RemoteFolder, network: FaultProxy, status: int) -> None:
    for name, operation in {**READS, "write": HEADS["write"]}.items():
        network.clear([Rule(faults.status(status))])
        error = refusal(operation, remote)
        assert isinstance(error, StorageError)
        assert re.search(rf"store\S*: .*{status}", str(error))
        assert ("credentials" in str(error)) == (status in (401, 403))
        of_ranges = {f"bytes={start}-{stop - 1}" for _, start, stop in RANGES}
        late = 0 if name == "ranges" else sum(request.range in of_ranges for request in network.requests)
        assert len(network.requests) - late <= (10 if name == "ranges" else 1)


def test_a_missing_file_is_a_missing_file_at_once(remote: RemoteFolder, network: FaultProxy) -> None:
    for ask in (remote.read, remote.size, lambda path: remote.read_range(path, 0, 5)):
        network.clear()
        with pytest.raises(FileNotFoundError, match=r"store/none: no such file$"):
            ask("none")
        assert len(network.requests) <= 2


def test_a_wrong_key_secret_or_bucket_is_named(s3_server: S3Server, bucket: str, network: FaultProxy) -> None:
    network.clear()
    for server, place, reason in [
        (
            replace(s3_server, secret="wrong"),
            bucket,
            r"refused \(403 SignatureDoesNotMatch\): check the cred",
        ),
        (replace(s3_server, key="wrong"), bucket, r"refused \(403 InvalidAccessKeyId\): check the cred"),
        (s3_server, "no-such-bucket", r"there is no such bucket \(404 NoSuchBucket\)"),
    ]:
        remote = RemoteFolder(f"s3://{place}", server.storage_options(network.url), PATIENT)
        network.clear()
        for operation in (READS["read"], READS["list"], lambda remote: remote.write("a", b"")):
            with pytest.raises(StorageError, match=reason):
                operation(remote)
        assert len(network.requests) == 3


@pytest.mark.usefixtures("no_delays")
def test_a_service_that_is_not_there_is_one_error(s3_server: S3Server) -> None:
    remote = RemoteFolder("s3://bucket", s3_server.storage_options("http://127.0.0.1:1"), RESIGNED)
    error = refusal(READS["range"], remote)
    assert "attempts; the last: Connect call failed ('127.0.0.1', 1)" in str(error)


def test_bytes_that_are_not_there_are_damage(remote: RemoteFolder, network: FaultProxy) -> None:
    for start in (len(DATA) - 5, len(DATA), len(DATA) + 100):
        network.clear()
        with pytest.raises(DamageError, match=rf"store/a/data: expected 10 bytes at {start}, found [05]: "):
            remote.read_range("a/data", start, start + 10)
        assert len(network.requests) == 3


def test_ranges_are_read_at_once_but_not_too_many(remote: RemoteFolder, network: FaultProxy) -> None:
    for requests, concurrency, least, most in ((RANGES * 3, None, 12, 16), (RANGES, 3, 3, 3)):
        at_once = faults.together(threading.Barrier(least))
        network.clear([Rule(at_once, count=least)])
        options = {} if concurrency is None else {"concurrency": concurrency}
        assert len(remote.read_ranges(requests, **options)) == len(requests)
        assert least <= network.most_under_way <= most


def test_the_first_lasting_error_ends_all_ranges(remote: RemoteFolder, network: FaultProxy) -> None:
    network.clear([Rule(faults.stall(), path="a/data")])
    requests = [("none", 0, 9), *[("a/data", start, start + 9) for start in range(500)]]
    with pytest.raises(FileNotFoundError, match="store/none"):
        remote.read_ranges(requests)
    assert len(network.requests) < 100


def test_ranges_in_turn_are_fetched_a_few_ahead(remote: RemoteFolder, network: FaultProxy) -> None:
    requests = [("a/data", start, start + 9) for start in range(12)]
    wait_until(lambda: network.most_under_way == 0, between=network.clear)  # what tests before have left
    network.clear([Rule(faults.together(threading.Barrier(4)), count=4)])
    assert list(remote.ranges_in_turn(requests, 4)) == [DATA[start:stop] for _, start, stop in requests]
    assert network.most_under_way == 4
    network.clear()
    answers = remote.ranges_in_turn(requests, 4)
    next(answers)
    answers.close()
    assert remote.read_range("a/data", 0, 3) == DATA[:3]
    assert len(network.requests) <= 6
    with pytest.raises(FileNotFoundError, match="store/none"):
        list(remote.ranges_in_turn([("none", 0, 9), *requests], 2))


def test_many_threads_share_one_remote(remote: RemoteFolder, network: FaultProxy) -> None:
    network.clear(lambda request: faults.reset() if request.index % 5 == 0 else None)
    with ThreadPoolExecutor(8) as threads:
        found = threads.map(lambda request: remote.read_range(*request), RANGES * 3)
        assert list(found) == [DATA[start:stop] for _, start, stop in RANGES * 3]


@pytest.mark.usefixtures("no_delays")
def test_what_was_stored_in_part_is_written_again(monkeypatch: pytest.MonkeyPatch, memory_url: str) -> None:
    remote = RemoteFolder(memory_url, retries=RESIGNED)
    whole = MemoryFileSystem.pipe_file
    kept = [3, 0]

    def in_part(self: MemoryFileSystem, path: str, value: bytes, **options: Any) -> None:
        whole(self, path, value[: kept.pop()] if kept else value, **options)

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", in_part)
    remote.write("a", b"12345")
    assert remote.read("a") == b"12345"
    kept += [2] * 1000
    with pytest.raises(StorageError, match=r"store/a: .*the last: wrote 5 bytes, then found 2"):
        remote.write("a", b"12345")


def test_a_finished_file_of_this_machine_is_moved_there(
    remote: RemoteFolder, network: FaultProxy, tmp_path: Any
) -> None:
    (tmp_path / "data").write_bytes(DATA)
    network.clear([Rule(faults.lose_answer(), count=1)])
    remote.move_into_place(tmp_path / "data", "put")
    assert remote.read("put") == DATA
    assert not (tmp_path / "data").exists()
    with pytest.raises(FileNotFoundError, match="nothing"):
        remote.move_into_place(tmp_path / "nothing", "put")
    remote.remove("put")


def exposed(error: BaseException) -> str:
    """Return all that an error shows: its traceback, and those of the errors it hides."""
    text = ""
    found: BaseException | None = error
    while found is not None:
        text += "".join(traceback.format_exception(found)) + repr(found)
        found = found.__context__
    return text


@pytest.mark.usefixtures("no_delays")
def test_no_error_log_or_repr_shows_a_secret(
    s3_server: S3Server, bucket: str, network: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "tokenstore")
    hidden: list[RemoteFolder] = []
    for secrets in ({"key": SECRETS["key"]}, {"secret": SECRETS["secret"]}, SECRETS):
        options = s3_server.storage_options(network.url.replace("//", "//me:p4ssw0rd@")) | secrets
        hidden.append(RemoteFolder(f"s3://me:p4ssw0rd@{bucket}", options, RESIGNED))
        hidden.append(RemoteFolder(f"s3://{bucket}", options | {"endpoint_url": network.url}, RESIGNED))
    hidden.append(RemoteFolder(f"s3://{bucket}", {**SECRETS, "nonsense": "n0ns3ns3"}, RESIGNED))
    web = network.url.replace("//", "//me:p4ssw0rd@")
    hidden.append(
        RemoteFolder(f"{web}/{bucket}?X-Amz-Signature=s1gn4tur3&token=t0k3nt0k3n", retries=RESIGNED)
    )
    shown = [repr(remote) + str(vars(remote)["url"]) for remote in hidden]
    for plan in ([], [Rule(faults.status(503))], [Rule(faults.truncate(1))], [Rule(faults.status(400))]):
        network.clear(plan)
        with ThreadPoolExecutor(len(hidden)) as threads:
            for error in threads.map(lambda remote: refusal(READS["read"], remote), hidden):
                shown.append(exposed(error))
    unknown_url = "nothing" + web.removeprefix("http") + "?sig=s1gn4tur3"
    with pytest.raises(StoreError) as unknown:
        RemoteFolder(unknown_url, {"key": SECRETS["key"]})
    shown.append(exposed(unknown.value))
    everything = "".join(shown) + caplog.text
    assert "attempt 1 failed" in caplog.text
    for secret in (*SECRETS.values(), "p4ssw0rd", "s1gn4tur3", "n0ns3ns3"):
        assert secret not in everything


def test_a_store_that_is_remote_shows_no_secret(memory_url: str) -> None:
    write_store(memory_url, {"train": (random_codes(5, (4, 4), 391),)})
    store = tokenstore.open(memory_url, storage_options=SECRETS)
    storage = store.files.storage
    shown = repr(store) + repr(store["train"]) + repr(storage) + str(storage) + storage.url
    assert shown.count(memory_url) == 5
    assert not any(secret in shown for secret in SECRETS.values())
    assert storage.storage_options == SECRETS


def test_the_environment_gives_the_deadline_where_the_call_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENSTORE_STORAGE_DEADLINE", "2.5")
    assert (Retries().deadline, Retries(deadline=7).deadline) == (2.5, 7)
    monkeypatch.setenv("TOKENSTORE_STORAGE_DEADLINE", "")
    assert Retries().deadline == 30


@pytest.mark.parametrize("text", ["soon", "0", "-1", "inf", "nan"])
def test_a_deadline_in_the_environment_that_is_none_is_refused(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("TOKENSTORE_STORAGE_DEADLINE", text)
    with pytest.raises(
        ArgumentError, match=f"TOKENSTORE_STORAGE_DEADLINE: expected a positive number of seconds.*'{text}'"
    ):
        Retries()
