"""TokenLoader with texts, lists and soft labels: aligned with the tokens in every order, view and place."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any
from unittest import mock

import fsspec
import numpy as np
import pytest
import torch
from helpers.ragged import KINDS, objects, ragged_columns, same
from helpers.stores import Samples, random_codes, write_store

import tokenstore
from tokenstore import TokenDataset, TokenLoader
from tokenstore.codecs.soft_labels import SoftLabels
from tokenstore.storage.remote.folder import RemoteFolder

SAMPLES = 101
COLUMNS = ("tokens", "labels", "caption", "boxes", "soft_labels")
VALUES = ragged_columns(SAMPLES)
CODES = random_codes(SAMPLES, (4, 6), 391)
SOFT = torch.from_numpy(SoftLabels(5).values(VALUES["soft_labels"]))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write 101 samples whose labels are their row numbers, in shards of 16 and chunks of 4."""
    path = tmp_path_factory.mktemp("columns") / "store"
    samples = Samples(CODES, np.arange(SAMPLES, dtype=np.int32), VALUES, (), KINDS)
    write_store(path, {"train": samples}, chunk_samples=4, shard_samples=16)
    return path


def rows_of(batch: Any) -> list[int]:
    """Return the row numbers of a batch, once all its columns are those of its rows."""
    tokens, labels, captions, boxes, soft = batch
    rows = labels.tolist()
    np.testing.assert_array_equal(tokens.numpy(), CODES[rows])
    assert captions == VALUES["caption"][rows].tolist()
    assert same(boxes, VALUES["boxes"][rows])
    assert torch.equal(soft, SOFT[rows])
    return rows


@pytest.mark.parametrize("shuffle", [False, "full", "block", "lanes"])
@pytest.mark.parametrize("settings", [{}, {"resident": "ram"}, {"num_threads": 3}], ids=str)
def test_columns_stay_with_their_tokens(store: Path, shuffle: Any, settings: dict[str, Any]) -> None:
    dataset = TokenDataset(store, columns=COLUMNS)
    loader = TokenLoader(dataset, 7, shuffle=shuffle, shuffle_window=24, **{"num_threads": 0, **settings})
    rows = [row for batch in loader for row in rows_of(batch)]
    assert sorted(rows) == list(range(SAMPLES))
    only = TokenLoader(TokenDataset(store), 7, shuffle=shuffle, shuffle_window=24, num_threads=0)
    assert rows == [row for _, labels in only for row in labels.tolist()]


def test_a_resumed_epoch_and_ranks_give_the_same_columns(store: Path) -> None:
    dataset = TokenDataset(store, columns=COLUMNS)
    settings: dict[str, Any] = {"shuffle": "full", "seed": 5, "num_threads": 0}
    whole = TokenLoader(dataset, 6, **settings)
    expected = [rows_of(batch) for batch in whole]
    begun = TokenLoader(dataset, 6, **settings)
    batches = iter(begun)
    first = [rows_of(next(batches)) for _ in range(4)]
    state = begun.state_dict()
    halves = [TokenLoader(dataset, 3, rank=rank, world_size=2, **settings) for rank in (0, 1)]
    rest = []
    for loader in halves:
        loader.load_state_dict(state)
        rest.append([rows_of(batch) for batch in loader])
    joined = [one + two for one, two in zip(*rest, strict=True)]
    assert [sorted(rows) for rows in first + joined] == [sorted(rows) for rows in expected]


def test_views_and_mixtures_give_the_columns_of_their_rows(store: Path) -> None:
    dataset = TokenDataset(store, columns=COLUMNS)
    views = [
        dataset.select([9, 3, 88]),
        dataset.filter(labels=range(20, 40)),
        dataset.split(0.3, seed=1)[1],
        tokenstore.concat([dataset.select([5, 1]), dataset]),
        tokenstore.mix([dataset, dataset.select([2, 4])], weights=[3, 1]),
    ]
    for view in views:
        for batch in TokenLoader(view, 8, shuffle=True, num_threads=0):
            rows_of(batch)


def test_transforms_and_batch_transforms_get_columns(store: Path) -> None:
    dataset = TokenDataset(store, columns=("tokens", "caption"), target_transform=len)
    (batch, *_) = TokenLoader(dataset, 9, num_threads=0)
    assert batch[1].tolist() == [len(text) for text in VALUES["caption"][:9]]

    def join(tokens: Any, captions: list[str], generator: Any) -> tuple[Any, str]:
        return tokens, "|".join(captions)

    plain = TokenDataset(store, columns=("tokens", "caption"))
    (batch, *_) = TokenLoader(plain, 2, batch_transform=join, num_threads=0)
    assert batch[1] == "|".join(VALUES["caption"][:2])
    by_sample = TokenDataset(store, columns=("tokens", "boxes"), transform=lambda tokens: tokens + 1)
    (batch, *_) = TokenLoader(by_sample, 5, num_threads=0)
    assert same(batch[1], VALUES["boxes"][:5])


def test_a_remote_caption_costs_at_most_two_requests_a_batch(tmp_path: Path) -> None:
    samples = 4096
    texts = objects(f"{row:06} {'a caption ' * 8}"[:80] for row in range(samples))
    columns = {"caption": texts}
    labels = np.arange(samples, dtype=np.int32)
    split = Samples(random_codes(samples, (14, 14), 391), labels, columns, (), {"caption": KINDS["caption"]})
    write_store(tmp_path / "store", {"train": split}, chunk_samples=64, shard_samples=2048)
    fsspec.filesystem("memory").put(str(tmp_path / "store"), "/columns-test", recursive=True)
    ranges: list[int] = []
    threads: set[str] = set()
    read = RemoteFolder.read_ranges

    def counting(self: RemoteFolder, asked: Any, at_once: int) -> Any:
        ranges.append(len(asked))
        if not any("/labels/" in path for path, _, _ in asked):  # which are read once, whole
            threads.add(threading.current_thread().name.partition("_")[0])
        return read(self, asked, at_once)

    counts = []
    with mock.patch.object(RemoteFolder, "read_ranges", counting):
        for names in (("tokens", "labels"), ("tokens", "labels", "caption")):
            ranges.clear()
            dataset = TokenDataset("memory://columns-test", columns=names)
            loader = TokenLoader(dataset, 256, shuffle=True, shuffle_window=1024, num_threads=2)
            batches = list(loader)
            counts.append(sum(ranges))
    for _, rows, captions in batches:
        assert captions == texts[rows.numpy()].tolist()
    assert counts[1] - counts[0] <= 2 * len(batches) + 2  # and an index for each shard of captions
    assert threads == {"tokenstore-fetch"}  # and not the threads that make batches


def test_a_cache_serves_all_columns_of_a_second_epoch(store: Path, tmp_path: Path) -> None:
    fsspec.filesystem("memory").put(str(store), "/cached-columns", recursive=True)
    dataset = TokenDataset("memory://cached-columns", columns=COLUMNS, cache_dir=tmp_path / "cache")
    loader = TokenLoader(dataset, 7, shuffle=True, num_threads=2)
    first = [row for batch in loader for row in rows_of(batch)]
    with mock.patch.object(RemoteFolder, "read_ranges", side_effect=AssertionError("fetched again")):
        again = TokenDataset("memory://cached-columns", columns=COLUMNS, cache_dir=tmp_path / "cache")
        second = [
            row for batch in TokenLoader(again, 7, shuffle=True, num_threads=2) for row in rows_of(batch)
        ]
    assert sorted(first) == sorted(second) == list(range(SAMPLES))
