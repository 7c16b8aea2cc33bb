"""TokenLoader in the order "lanes": the same for any number of ranks, each of which reads runs of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.stores import random_codes, write_store
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenstore
from tokenstore import TokenDataset, TokenLoader
from tokenstore.loading.orders import order_of
from tokenstore.reading import shards

SAMPLES = 501
LABELS = np.arange(SAMPLES, dtype=np.int32)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write 501 samples, labelled with their row numbers, in chunks of 4 and shards of 28."""
    path = tmp_path_factory.mktemp("lanes") / "store"
    splits = {"train": (random_codes(SAMPLES, (2, 2), 391), LABELS)}
    write_store(path, splits, chunk_samples=4, shard_samples=28)
    return path


@pytest.fixture(autouse=True)
def two_chunks_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Join two chunks to a run, so that each shard has three full runs and a shorter one."""
    monkeypatch.setattr(shards, "RUN_NBYTES", 80)


def loaded(dataset: TokenDataset, batch_size: int, **arguments: Any) -> TokenLoader:
    arguments = {"shuffle": "lanes", "seed": 3, "shuffle_window": 100, "num_threads": 0, **arguments}
    return TokenLoader(dataset, batch_size, **arguments)


def steps_of(loaders: list[TokenLoader]) -> list[list[int]]:
    """Return the labels of every step of all ranks, sorted."""
    ranks = [[labels.tolist() for _, labels in loader] for loader in loaders]
    assert len({len(batches) for batches in ranks}) == 1, "as many batches on every rank"
    return [sorted(label for batch in step for label in batch) for step in zip(*ranks, strict=True)]


def in_steps(order: list[int], size: int) -> list[list[int]]:
    return [sorted(order[start : start + size]) for start in range(0, len(order), size)]


@settings(deadline=None, max_examples=8)
@given(world_size=st.integers(1, 14), batch_size=st.integers(2, 30), data=st.data())
def test_any_number_of_ranks_goes_through_one_order_and_goes_on_with_it(
    store: Path, world_size: int, batch_size: int, data: st.DataObject
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "RUN_NBYTES", 80)
        dataset = TokenDataset(store)
        order = [label for _, labels in loaded(dataset, SAMPLES) for label in labels.tolist()]
        assert sorted(order) == list(range(SAMPLES))
        assert order == order_of(dataset.rows, "lanes", 100, 3, 0)(np.arange(SAMPLES)).tolist()
        ranks = [loaded(dataset, batch_size, rank=r, world_size=world_size) for r in range(world_size)]
        steps = steps_of(ranks)
        assert steps[:-2] == in_steps(order, batch_size * world_size)[: len(steps) - 2]
        ranks = [loaded(dataset, batch_size, rank=r, world_size=world_size) for r in range(world_size)]
        stop = data.draw(st.integers(1, len(ranks[0])))
        for loader in ranks:
            for _ in zip(loader, range(stop), strict=False):
                state = loader.state_dict()
        assert state["shuffle"] == "lanes"
        then = data.draw(st.integers(1, 14))
        rest = [TokenLoader(dataset, batch_size, rank=r, world_size=then, num_threads=0) for r in range(then)]
        for loader in rest:
            loader.load_state_dict(json.loads(json.dumps(state)))
        left = [label for step in steps_of(rest) for label in step]
        assert set(order[state["consumed"] :]) <= set(left)
        assert len(left) <= SAMPLES - state["consumed"] + then


def test_views_have_lanes_too(store: Path) -> None:
    dataset = TokenDataset(store)
    for view in (
        dataset.split(0.3, seed=1)[1],
        tokenstore.concat([dataset.select(range(77)), dataset]),
        tokenstore.mix([dataset.select(range(200)), dataset.select(range(200, 300))]),
    ):
        whole = [labels for loader in [loaded(view, 50)] for _, labels in loader]
        expected = [labels for _, labels in TokenLoader(view, 50)]
        assert sorted(np.concatenate(whole).tolist()) == sorted(np.concatenate(expected).tolist())
        ranks = [loaded(view, 25, rank=r, world_size=2) for r in range(2)]
        together = in_steps(np.concatenate(whole).tolist(), 50)
        assert steps_of(ranks)[: len(together) - 2] == together[: len(together) - 2]


def test_a_state_of_a_block_shuffle_goes_on_with_that_order(store: Path) -> None:
    """Load a state as older versions wrote it."""
    dataset = TokenDataset(store)
    state = {
        "version": 1,
        "seed": 3,
        "epoch": 2,
        "consumed": 120,
        "samples": SAMPLES,
        "shuffle": "block",
        "shuffle_window": 100,
        "fingerprint": dataset.fingerprint,
    }
    loader = loaded(dataset, 30)
    loader.load_state_dict(state)
    for epoch, first in ((2, 120), (3, 0)):
        rows = order_of(dataset.rows, "block", 100, 3, epoch)(np.arange(first, SAMPLES)).tolist()
        assert [label for _, labels in loader for label in labels.tolist()] == rows


@pytest.mark.parametrize("resident", ["ram", "gpu"])
def test_tokens_in_memory_come_in_the_same_lanes(store: Path, resident: Any) -> None:
    dataset = TokenDataset(store)
    order = [labels.tolist() for _, labels in loaded(dataset, 40)]
    loader = loaded(dataset, 40, resident=resident, device="cpu")
    assert [labels.tolist() for _, labels in loader] == order
