"""Reading a store from S3: what is requested and how often, caches, codecs, other kinds of storage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import faults
from helpers.fault_proxy import FaultProxy
from helpers.faults import Rule
from helpers.fetched_stores import CODES, LABELS, SAMPLES, check_epoch, opened
from helpers.object_storage import S3Server
from helpers.stores import write_store
from helpers.waiting import PATIENT

import tokenstore
from tokenstore import TokenDataset, TokenLoader
from tokenstore.audit.verify import verify
from tokenstore.errors import TokenstoreError
from tokenstore.reading import fetching
from tokenstore.storage import open_storage


def test_every_byte_is_fetched_once_an_epoch(
    url: str, s3_server: S3Server, fault_proxy: FaultProxy, each_chunk_alone: None
) -> None:
    dataset = opened(url, s3_server, fault_proxy)
    assert dataset.reader.store.storage.root is None
    loader = TokenLoader(dataset, 7, shuffle=True, num_threads=2, shuffle_window=64)
    assert loader.shuffle == "lanes"
    fault_proxy.clear()
    order = check_epoch(loader)
    assert len(order) == SAMPLES
    assert order != sorted(order)
    assert fault_proxy.count("GET", "tokens") == 2 + 19, "two indexes, nineteen chunks"
    stored = sum(r.size for path, r in dataset.reader.store.manifest.files.items() if "/c/" in path)
    assert sum(request.sent for request in fault_proxy.requests if "/c/" in request.path) <= stored
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
    local = TokenLoader(TokenDataset(tmp_path / "a"), 16, "lanes", seed=3, shuffle_window=50)
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
