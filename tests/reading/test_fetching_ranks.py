"""Many ranks on a remote store: all together fetch each chunk once an epoch, in memory for their windows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.fault_proxy import FaultProxy
from helpers.object_storage import S3Server
from helpers.stores import random_codes, write_store
from helpers.waiting import HANG

from tokenstore import TokenDataset, TokenLoader
from tokenstore.reading import fetching
from tokenstore.storage import open_storage

SAMPLES, CHUNK = 16_000, 8
WINDOW = 100 * CHUNK


@pytest.fixture
def many_chunks(memory_url: str) -> Iterator[tuple[str, list[tuple[str, int, int]]]]:
    """Write 2,000 chunks in 20 shards; give the URL, and a list that fills with the ranges of tokens read."""
    codes, labels = random_codes(SAMPLES, (2, 2), 391), np.arange(SAMPLES, dtype=np.int32)
    write_store(
        open_storage(memory_url), {"train": (codes, labels)}, chunk_samples=CHUNK, shard_samples=100 * CHUNK
    )
    storage = type(TokenDataset(memory_url).reader.store.storage)
    read, ranges = storage.read_ranges, []

    def noted(self: Any, requests: Any, *arguments: Any) -> Any:
        ranges.extend(request for request in requests if "/tokens/c/" in request[0])
        return read(self, requests, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "read_ranges", noted)
        yield memory_url, ranges


def epoch_of(dataset: TokenDataset, rank: int, world_size: int, batch_size: int) -> list[int]:
    loader = TokenLoader(
        dataset, batch_size, True, num_threads=0, rank=rank, world_size=world_size, shuffle_window=WINDOW
    )
    assert loader.shuffle == "lanes"
    return [label for _, labels in loader for label in labels.tolist()]


@pytest.mark.parametrize(
    "world_size", [1, 8, *(pytest.param(ranks, marks=pytest.mark.thorough) for ranks in (4, 64))]
)
def test_all_ranks_together_fetch_each_byte_once(
    many_chunks: tuple[str, list[Any]],
    each_chunk_alone: None,
    monkeypatch: pytest.MonkeyPatch,
    world_size: int,
) -> None:
    """Leave each rank memory for its windows alone, which are a tenth of the epoch."""
    monkeypatch.setattr(fetching, "FETCHED_NBYTES", 0)
    url, ranges = many_chunks
    seen: list[int] = []
    stored = fetched = 0
    for rank in range(world_size):
        dataset = TokenDataset(url)
        files = dataset.reader.arrays["tokens"].files
        ranges.clear()
        seen += epoch_of(dataset, rank, world_size, 16)
        indexes = files.layout.shards * files.layout.index_nbytes
        stored = int(files.nbytes.sum()) - indexes
        fetched += sum(stop - start for _, start, stop in ranges) - indexes
    assert sorted(seen) == list(range(SAMPLES))
    assert fetched <= 1.05 * stored


RANK = """
import json, os, sys
from pathlib import Path
import torch
from tokenstore import TokenDataset, TokenLoader
from tokenstore.reading import shards


shards.RUN_NBYTES = 1
url, options, out = sys.argv[1:]
torch.distributed.init_process_group("gloo")
dataset = TokenDataset(url, storage_options=json.loads(options))
loader = TokenLoader(dataset, 16, shuffle=True, num_threads=1)
seen = [label for _, labels in loader for label in labels.tolist()]
Path(out, str(loader.rank)).write_text(" ".join(map(str, seen)))
torch.distributed.barrier()
os._exit(0)
"""


@pytest.mark.thorough
def test_four_ranks_of_torchrun_fetch_each_byte_of_a_bucket_once(
    s3_server: S3Server, fault_proxy: FaultProxy, tmp_path: Path
) -> None:
    samples = 2400
    url = f"s3://{s3_server.new_bucket()}/a.zarr"
    codes, labels = random_codes(samples, (2, 2), 391), np.arange(samples, dtype=np.int32)
    write_store(
        open_storage(url, s3_server.storage_options()),
        {"train": (codes, labels)},
        chunk_samples=CHUNK,
        shard_samples=100 * CHUNK,
    )
    stored = samples // CHUNK
    (tmp_path / "rank.py").write_text(RANK)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=4"]
    command += [str(tmp_path / "rank.py"), url, json.dumps(s3_server.storage_options(fault_proxy.url))]
    fault_proxy.clear()
    ended = subprocess.run(
        [*command, str(tmp_path)], capture_output=True, text=True, timeout=HANG, check=False, env=os.environ
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    seen = [int(label) for rank in range(4) for label in (tmp_path / str(rank)).read_text().split()]
    assert sorted(seen) == list(range(samples))
    indexes = 4 * 3
    assert stored <= fault_proxy.count("GET", "tokens/c/") - indexes <= 1.05 * stored
