"""Reading a store from S3 in several processes."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.fault_proxy import FaultProxy
from helpers.fetched_stores import CODES, SAMPLES, check_epoch, opened
from helpers.object_storage import S3Server
from helpers.waiting import HANG, PATIENT
from torch.utils.data import DataLoader

from tokenstore import TokenDataset, TokenLoader
from tokenstore.storage import cache, claims


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


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.thorough), "forkserver"])
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


@pytest.mark.parametrize("shuffle", ["lanes", "full"])
def test_processes_with_one_cache_fetch_each_run_once(
    url: str,
    s3_server: S3Server,
    fault_proxy: FaultProxy,
    each_chunk_alone: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shuffle: Any,
) -> None:
    """Let two processes go through the same samples at the same time, each in an order of its own."""
    for module in (cache, claims):
        monkeypatch.setattr(module, "PATIENCE", HANG)
    context = multiprocessing.get_context("fork")
    answers = context.Queue()

    def read(seed: int) -> None:
        try:
            dataset = opened(url, s3_server, fault_proxy, cache_dir=tmp_path / "cache")
            for _ in range(2):
                check_epoch(TokenLoader(dataset, 16, shuffle=shuffle, seed=seed, num_threads=2))
            answers.put("right")
        except BaseException as error:
            answers.put(repr(error))
            raise

    children = [context.Process(target=read, args=(seed,)) for seed in range(2)]
    for child in children:
        child.start()
    assert [answers.get(timeout=HANG) for _ in children] == ["right", "right"]
    for child in children:
        child.join(HANG)
    paths = [request.path for request in fault_proxy.requests if "tokens/c/" in request.path]
    assert len(paths) == 2 + 19, "two indexes, nineteen chunks"


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
