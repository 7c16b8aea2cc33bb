"""The mixing of a split by its orders, measured on TokenLoader's batches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.stores import random_codes, write_store

import tokenstore
from tokenstore import TokenDataset, TokenLoader
from tokenstore.format.tables import Skip
from tokenstore.loading import orders
from tokenstore.loading.orders import Mixing, measure_mixing, order_of, packed_nbytes
from tokenstore.reading import Concatenated, Subset, shards

SAMPLES = 1000
RUN = 20
GRID = (4, 6)
CLASSES = 50


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tokenstore.TokenStore:
    """Write runs of 20 samples; "train" is sorted by class, "plain" has no labels, "empty" no samples."""
    labels = np.sort(np.arange(SAMPLES) % CLASSES).astype(np.int32)
    none = random_codes(2, GRID, 391)[:0]
    splits = {
        "train": (random_codes(SAMPLES, GRID, 391), labels),
        "plain": (random_codes(SAMPLES, GRID, 391),),
        "empty": (none, labels[:0], {}, [Skip(0, "0.png", "the file is empty")]),
    }
    path = tmp_path_factory.mktemp("shuffling") / "store"
    write_store(path, splits, chunk_samples=RUN, shard_samples=RUN)
    return tokenstore.open(path)


def mixing_of(rows: Any, batch_size: int = 50, window: int | None = None) -> Mixing:
    mixing = measure_mixing(rows, batch_size, window)
    assert mixing is not None
    return mixing


def test_a_split_sorted_by_class_is_mixed_by_a_shuffle_alone(store: tokenstore.TokenStore) -> None:
    """Count classes in a batch of 50: 3 runs of 20 samples each unshuffled, 32 in a full shuffle."""
    mixing = mixing_of(store["train"], window=SAMPLES // 5)
    assert mixing.runs == SAMPLES // RUN
    none, full, block = (mixing.orders[order] for order in ("none", "full", "block"))
    assert none.blocks == none.classes == 3
    assert none.figure == pytest.approx(3 / full.blocks_expected)
    assert none.figure < 0.1
    assert 0.95 < full.figure <= 1
    assert 2 * none.figure < block.figure < 0.5 * full.figure


def test_the_figure_of_blocks_grows_with_their_window_up_to_a_full_shuffle(
    store: tokenstore.TokenStore,
) -> None:
    figures = [
        mixing_of(store["train"], window=window).orders["block"].figure for window in (1, 50, 200, 10**6)
    ]
    assert figures == sorted(figures)
    assert figures[0] < 0.15
    assert figures[-1] > 0.95


@pytest.mark.parametrize("order", ["none", "full", "block", "lanes"])
def test_what_is_measured_is_what_the_batches_of_a_loader_hold(
    store: tokenstore.TokenStore, order: Any
) -> None:
    loader = TokenLoader(
        TokenDataset(store), 30, order != "none" and order, drop_last=True, shuffle_window=70
    )
    counts = [len(np.unique(labels)) for _, labels in loader]
    measured = mixing_of(store["train"], 30, 70).orders[order]
    assert measured.batches == len(counts) == SAMPLES // 30
    assert measured.classes == pytest.approx(np.mean(counts))
    assert measured.blocks == measured.classes, "a run is of one class here"


def test_the_default_window_is_that_of_the_loader(store: tokenstore.TokenStore) -> None:
    loader = TokenLoader(TokenDataset(store), 30, "block")
    assert mixing_of(store["train"]).window == loader.shuffle_window == 2**26 // packed_nbytes(store.manifest)
    assert packed_nbytes(store.manifest) == -(-4 * 6 * 9 // 8)


def test_without_labels_runs_alone_are_counted(store: tokenstore.TokenStore) -> None:
    mixing = mixing_of(store["plain"], window=100)
    for quality in mixing.orders.values():
        assert (quality.classes, quality.classes_expected) == (None, None)
        assert quality.figure == min(1, quality.blocks / quality.blocks_expected)
    assert mixing.orders["none"].figure < mixing.orders["block"].figure < mixing.orders["full"].figure


def test_a_batch_of_more_than_all_samples_is_all_of_them(store: tokenstore.TokenStore) -> None:
    for quality in mixing_of(store["train"], 10**4).orders.values():
        assert (quality.batch_size, quality.batches) == (SAMPLES, 1)
        assert (quality.blocks, quality.classes, quality.figure) == (SAMPLES // RUN, CLASSES, 1)


def test_what_no_order_can_mix_is_not_measured(store: tokenstore.TokenStore) -> None:
    train, plain = store["train"], store["plain"]
    assert measure_mixing(store["empty"], 50) is None
    assert measure_mixing(Subset(train, np.arange(RUN)), 50) is None
    assert measure_mixing(Subset(plain, np.arange(RUN)), 50) is None
    assert measure_mixing(Subset(plain, np.arange(RUN + 1)), 50) is not None


def test_two_classes_in_one_run_are_measured(store: tokenstore.TokenStore, tmp_path: Path) -> None:
    labels = np.repeat([0, 1], 10).astype(np.int32)
    write_store(tmp_path / "one", {"train": (random_codes(20, GRID, 391), labels)})
    mixing = mixing_of(tokenstore.open(tmp_path / "one")["train"], 5)
    assert mixing.runs == 1
    assert mixing.orders["none"].classes == 1
    assert mixing.orders["none"].figure < 0.6 < mixing.orders["full"].figure


def test_the_measurement_is_json_and_the_same_each_time(store: tokenstore.TokenStore) -> None:
    values = mixing_of(store["train"]).to_dict()
    assert json.loads(json.dumps(values)) == values
    again = tokenstore.open(store.files.storage.url)
    assert mixing_of(again["train"]).to_dict() == values
    assert list(values["orders"]) == ["none", "full", "block", "lanes"]
    assert values["orders"]["none"]["runs"] == 3


@pytest.mark.parametrize("window", [1, RUN // 2, RUN, 3 * RUN - 1])
def test_a_window_is_the_nearest_number_of_whole_runs_and_one_at_least(
    store: tokenstore.TokenStore, window: int
) -> None:
    runs = max(1, round(window / RUN))
    drawn = order_of(store["train"], "block", window, 0, 0)(np.arange(runs * RUN))
    assert len(np.unique(drawn // RUN)) == runs


@pytest.mark.parametrize("view", ["filtered", "listed", "two splits"])
@pytest.mark.parametrize("joined_by", ["split", "order"])
def test_lanes_of_a_view_are_no_fewer_where_its_runs_are_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, joined_by: str, view: str
) -> None:
    """Join about 10 runs of 5 samples each: as many lanes and runs are in a batch as without."""
    monkeypatch.setattr(shards, "RUN_NBYTES", 1)
    write_store(
        tmp_path / "a", {"train": (random_codes(SAMPLES, GRID, 391),)}, chunk_samples=5, shard_samples=100
    )
    found = []
    for joins in (False, True):
        if joins and joined_by == "split":
            monkeypatch.setattr(shards, "_MOST_RUNS", SAMPLES // 50)
        elif joins:
            monkeypatch.setattr(orders, "_MOST_BLOCKS", SAMPLES // 50)
        split = tokenstore.open(tmp_path / "a")["train"]
        rows: Any = {
            "filtered": lambda: Subset.where(split, lambda row: row % 7 > 0),  # noqa: B023
            "listed": lambda: Subset(split, np.arange(SAMPLES)[::-1]),  # noqa: B023
            "two splits": lambda: Concatenated([split, split]),  # noqa: B023
        }[view]()
        assert rows.joined == (10 if joins and joined_by == "split" else 1)
        order: Any = order_of(rows, "lanes", 200, 1, 0)
        drawn = order(np.arange(len(rows)))
        assert sorted(drawn.tolist()) == list(range(len(rows)))
        chunks = drawn // 5
        batches = [len(np.unique(chunks[start : start + 32])) for start in range(0, len(rows) - 32, 32)]
        found.append((order.lanes, np.mean(batches)))
    (lanes, runs), (lanes_joined, runs_joined) = found
    assert lanes_joined == lanes == 48
    assert runs_joined >= 0.8 * runs
