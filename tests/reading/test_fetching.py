"""Reading a store from S3: what is asked for and how often, faults of the network, caches, processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import faults
from helpers.fault_proxy import FaultProxy
from helpers.faults import Fault, Rule
from helpers.object_storage import S3Server
from helpers.stores import random_codes, write_store
from helpers.waiting import HANG, HASTY, PATIENT, RESIGNED, RESTLESS
from torch.utils.data import DataLoader

import tokenstore
from tokenstore import Retries, TokenDataset, TokenLoader
from tokenstore.audit.verify import verify
from tokenstore.errors import DamageError, StorageError, TokenstoreError
from tokenstore.reading import fetching, shards
from tokenstore.storage import open_storage
from tokenstore.storage.remote import RemoteFolder

pytestmark = pytest.mark.usefixtures("without_fsync")

SAMPLES = 300
CODES = random_codes(SAMPLES, (4, 6), 391)
LABELS = np.arange(SAMPLES, dtype=np.int32)
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


@pytest.fixture(scope="module")
def url(s3_server: S3Server, request: pytest.FixtureRequest) -> str:
    """300 samples whose labels are their positions, in 2 shards of 10 chunks of 16."""
    url = f"s3://{s3_server.new_bucket()}/deep/a.zarr"
    write_store(
        open_storage(url, s3_server.storage_options()),
        {"train": (CODES, LABELS)},
        chunk_samples=16,
        shard_samples=160,
    )
    return url


@pytest.fixture
def each_chunk_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "RUN_NBYTES", 1)


def opened(url: str, server: S3Server, proxy: FaultProxy, **options: Any) -> TokenDataset:
    options = {"retries": PATIENT, **options}
    return TokenDataset(url, storage_options=server.storage_options(proxy.url), **options)


def check_epoch(loader: TokenLoader) -> list[int]:
    """Check that every sample comes once, with its own codes; return row numbers in the order they came."""
    order = []
    for tokens, labels in loader:
        np.testing.assert_array_equal(tokens, CODES[labels])
        order += labels.tolist()
    assert sorted(order) == list(range(len(order)))
    return order


def test_every_byte_is_fetched_once_an_epoch(
    url: str, s3_server: S3Server, fault_proxy: FaultProxy, each_chunk_alone: None
) -> None:
    dataset = opened(url, s3_server, fault_proxy)
    assert dataset.reader.store.storage.root is None
    loader = TokenLoader(dataset, 7, shuffle=True, num_threads=2, shuffle_window=64)
    assert loader.shuffle == "block"
    fault_proxy.clear()
    order = check_epoch(loader)
    assert len(order) == SAMPLES
    assert order != sorted(order)
    assert fault_proxy.count("GET", "tokens") == 2 + 19, "two indexes, nineteen chunks"
    stored = sum(r.size for path, r in dataset.reader.store.manifest.files.items() if "/c/" in path)
    assert fault_proxy.sent <= stored
    assert check_epoch(loader) != order
    assert fault_proxy.count("GET", "tokens") == 2 + 19, "in memory, since it is little"


def test_a_store_larger_than_memory_is_fetched_once_an_epoch(
    url: str,
    s3_server: S3Server,
    fault_proxy: FaultProxy,
    each_chunk_alone: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fetching, "FETCHED_NBYTES", 0)
    dataset = opened(url, s3_server, fault_proxy)
    loader = TokenLoader(dataset, 8, shuffle=True, num_threads=2, shuffle_window=32)
    check_epoch(loader)
    before = fault_proxy.count("GET", "tokens")
    for epoch in range(1, 4):
        check_epoch(loader)
        assert fault_proxy.count("GET", "tokens") <= before + epoch * 19


def test_neighbouring_chunks_are_fetched_as_one(
    url: str, s3_server: S3Server, fault_proxy: FaultProxy
) -> None:
    dataset = opened(url, s3_server, fault_proxy)
    check_epoch(TokenLoader(dataset, 50))
    assert fault_proxy.count("GET", "tokens/c/") == 2 + 2


def test_a_random_sample_takes_one_request_after_the_first(
    url: str, s3_server: S3Server, fault_proxy: FaultProxy, each_chunk_alone: None
) -> None:
    dataset = opened(url, s3_server, fault_proxy)
    assert dataset[3][1] == 3
    for taken, sample in enumerate((299, 100, 37, 222)):
        fault_proxy.clear()
        tokens, label = dataset[sample]
        assert (label, fault_proxy.count()) == (sample, 1), taken
        np.testing.assert_array_equal(tokens, CODES[sample])


def test_a_store_opens_with_few_requests(url: str, s3_server: S3Server, fault_proxy: FaultProxy) -> None:
    opened(url, s3_server, fault_proxy)
    assert fault_proxy.count() == 3, "the manifest and what each of two arrays says of itself"


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
    assert fault_proxy.count() == 2, "it is fetched once more, and then given up"
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
    """200 requests; the fault passes, or stays from that request on: right codes or one error."""
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


def test_a_cache_saves_the_second_reading(
    url: str, s3_server: S3Server, fault_proxy: FaultProxy, each_chunk_alone: None, tmp_path: Path
) -> None:
    def epoch() -> int:
        fault_proxy.clear()
        dataset = opened(url, s3_server, fault_proxy, cache_dir=tmp_path / "cache", cache_limit="10MB")
        check_epoch(TokenLoader(dataset, 16, shuffle=True, num_threads=2))
        return fault_proxy.count(path="/c/")

    assert epoch() == 2 + 19 + 2 + 2, "indexes and chunks of tokens and of labels"
    assert epoch() == 0
    damaged = 0
    for file in (tmp_path / "cache").rglob("*"):
        data = bytearray(file.read_bytes()) if file.is_file() else b""
        if len(data) > 100:
            data[3] ^= 1
            file.write_bytes(data)
            damaged += 1
    assert damaged >= 19
    assert epoch() >= 19, "what is damaged is fetched again"
    assert epoch() == 0


def test_an_impossible_limit_of_a_cache_is_refused(url: str, s3_server: S3Server, tmp_path: Path) -> None:
    for limit in ("0GB", -1, "10 parsecs", "999999PB"):
        with pytest.raises(ValueError):
            TokenDataset(
                url, storage_options=s3_server.storage_options(), cache_dir=tmp_path, cache_limit=limit
            )


def test_a_split_is_read_into_memory_once(url: str, s3_server: S3Server, fault_proxy: FaultProxy) -> None:
    dataset = opened(url, s3_server, fault_proxy)
    loader = TokenLoader(dataset, 16, shuffle=True, resident="ram")
    assert loader.shuffle == "full"
    fault_proxy.clear([Rule(faults.status(403))])
    first, second = check_epoch(loader), check_epoch(loader)
    assert first != second
    assert fault_proxy.count() == 0


def test_the_order_is_that_of_a_local_copy_with_the_same_shuffle(
    url: str, s3_server: S3Server, fault_proxy: FaultProxy, tmp_path: Path
) -> None:
    write_store(tmp_path / "a", {"train": (CODES, LABELS)}, chunk_samples=16, shard_samples=160)
    remote = TokenLoader(opened(url, s3_server, fault_proxy), 16, True, seed=3, shuffle_window=50)
    local = TokenLoader(TokenDataset(tmp_path / "a"), 16, "block", seed=3, shuffle_window=50)
    assert check_epoch(remote) == (whole := check_epoch(local))
    local.set_epoch(0)
    for _ in zip(local, range(4), strict=False):
        state = local.state_dict()
    remote.load_state_dict(state)
    rest = [label for _, labels in remote for label in labels.tolist()]
    assert rest == whole[64:]


@pytest.mark.parametrize("codec", ["context", "zstd"])
def test_other_codecs_are_read_too(s3_server: S3Server, fault_proxy: FaultProxy, codec: str) -> None:
    url = f"s3://{s3_server.new_bucket()}/a.zarr"
    writer = open_storage(url, s3_server.storage_options())
    write_store(writer, {"train": (CODES, LABELS)}, codec=codec, chunk_samples=16, shard_samples=160)
    dataset = opened(url, s3_server, fault_proxy)
    check_epoch(TokenLoader(dataset, 16, shuffle=True, num_threads=2))
    check_epoch(TokenLoader(dataset, 16, shuffle=True, resident="ram"))


def read_some(dataset: TokenDataset, answers: Any, samples: range) -> None:
    try:
        for sample in samples:
            tokens, label = dataset[sample]
            np.testing.assert_array_equal(tokens, CODES[sample])
            assert label == sample
        check_epoch(TokenLoader(dataset, 32, shuffle=True, num_threads=2))
        answers.put("right")
    except BaseException as error:
        answers.put(repr(error))
        raise


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_what_was_opened_and_read_here_is_read_in_child_processes(
    url: str, s3_server: S3Server, method: str
) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} on this system")
    dataset = TokenDataset(url, storage_options=s3_server.storage_options(), retries=PATIENT)
    np.testing.assert_array_equal(dataset[5][0], CODES[5])
    context = multiprocessing.get_context(method)
    answers = context.Queue()
    children = [
        context.Process(target=read_some, args=(dataset, answers, range(n, SAMPLES, 40))) for n in range(2)
    ]
    for child in children:
        child.start()
    assert [answers.get(timeout=HANG) for _ in children] == ["right", "right"]
    for child in children:
        child.join(HANG)
        assert child.exitcode == 0
    check_epoch(TokenLoader(dataset, 32, shuffle=True))


def test_a_fork_in_the_middle_of_reading_does_not_hang_the_child(url: str, s3_server: S3Server) -> None:
    dataset = TokenDataset(url, storage_options=s3_server.storage_options(), retries=PATIENT)
    loader = TokenLoader(dataset, 4, shuffle=True, num_threads=2)
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    for _ in range(3):
        batches = iter(loader)
        next(batches)
        child = context.Process(target=read_some, args=(dataset, answers, range(3)))
        child.start()
        assert answers.get(timeout=HANG) == "right"
        child.join(HANG)
        assert len(list(batches)) == len(loader) - 1


def test_workers_of_a_dataloader_read_remote_stores(url: str, s3_server: S3Server) -> None:
    dataset = TokenDataset(url, storage_options=s3_server.storage_options(), retries=PATIENT)
    np.testing.assert_array_equal(dataset[0][0], CODES[0])
    loader = DataLoader(dataset, 32, shuffle=True, num_workers=2, persistent_workers=True)
    for _ in range(2):
        seen = []
        for tokens, labels in loader:
            np.testing.assert_array_equal(tokens, CODES[labels])
            seen += labels.tolist()
        assert sorted(seen) == list(range(SAMPLES))


def test_two_ranks_of_one_machine_share_a_cache(
    url: str, s3_server: S3Server, fault_proxy: FaultProxy, each_chunk_alone: None, tmp_path: Path
) -> None:
    seen = []
    for rank in range(2):
        dataset = opened(url, s3_server, fault_proxy, cache_dir=tmp_path / "cache")
        loader = TokenLoader(dataset, 16, shuffle=True, rank=rank, world_size=2)
        for tokens, labels in loader:
            np.testing.assert_array_equal(tokens, CODES[labels])
            seen += labels.tolist()
    assert sorted(seen) == list(range(SAMPLES))
    assert fault_proxy.count("GET", "tokens/c/") == 2 + 19


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


def test_a_store_is_read_from_a_web_server_and_a_remote_zip_file(
    s3_server: S3Server, tmp_path: Path, serve_folder: Callable[[Path], str]
) -> None:
    write_store(tmp_path / "a.zip", {"train": (CODES, LABELS)}, chunk_samples=16, shard_samples=160)
    write_store(tmp_path / "a", {"train": (CODES, LABELS)}, chunk_samples=16, shard_samples=160)
    bucket = s3_server.new_bucket()
    open_storage(f"s3://{bucket}", s3_server.storage_options()).write(
        "a.zip", (tmp_path / "a.zip").read_bytes()
    )
    site = serve_folder(tmp_path)
    for place, options in (
        (f"s3://{bucket}/a.zip", s3_server.storage_options()),
        (f"zip::s3://{bucket}/a.zip", {"s3": s3_server.storage_options()}),
        (f"{site}/a", {}),
        (f"{site}/a.zip", {}),
    ):
        try:
            dataset = TokenDataset(place, storage_options=options, retries=PATIENT)
        except TokenstoreError as error:
            raise AssertionError(f"{place}: {error}") from error
        check_epoch(TokenLoader(dataset, 16, shuffle=True, num_threads=2))
        found = verify(open_storage(place, options, PATIENT))
        assert not found.problems
        assert bool(found.notes) == (place == f"{site}/a"), "a web server cannot list its files"
    with pytest.raises(TokenstoreError):
        tokenstore.open(f"{site}/nothing", retries=PATIENT)
