"""Loops over a loader that are left early: the next one is the next epoch, and states stay exact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.stores import write_store

import tokenstore
from tokenstore import TokenDataset, TokenLoader

SAMPLES = 60


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a store whose labels are the numbers of its samples."""
    path = tmp_path_factory.mktemp("store") / "train.zarr"
    codes = np.random.default_rng(0).integers(0, 391, (SAMPLES, 3, 4), np.uint16)
    write_store(path, {"train": (codes, np.arange(SAMPLES, dtype=np.int32))}, chunk_samples=8)
    return path


def taken(loader: TokenLoader, batches: int) -> list[list[int]]:
    """Return the labels of some batches of a loop that is then left."""
    return [labels.tolist() for _, (_, labels) in zip(range(batches), loader, strict=False)]


def epoch(dataset: TokenDataset, number: int, shuffle: Any = True) -> list[list[int]]:
    """Return an epoch's batches, as `set_epoch` chooses it."""
    loader = TokenLoader(dataset, 8, shuffle)
    loader.set_epoch(number)
    return [labels.tolist() for _, labels in loader]


@pytest.mark.parametrize("num_threads", [0, 2])
@pytest.mark.parametrize("shuffle", [True, "block", "lanes"])
def test_a_loop_that_was_left_is_followed_by_the_next_epoch(
    store: Path, shuffle: Any, num_threads: int
) -> None:
    dataset = TokenDataset(store)
    loader = TokenLoader(dataset, 8, shuffle, num_threads=num_threads)
    for number in range(4):
        assert taken(loader, 3) == epoch(dataset, number, shuffle)[:3]
        assert (loader.epoch, loader.state_dict()["consumed"]) == (number, 24)
    assert taken(loader, 8) == epoch(dataset, 4, shuffle)
    assert taken(loader, 9) == epoch(dataset, 5, shuffle), "the last batch was given out, not the end"
    assert loader.epoch == 6


def test_a_mixture_goes_on_with_its_next_epoch(store: Path) -> None:
    both = tokenstore.mix([TokenDataset(store)] * 2, weights=[3, 1])
    loader = TokenLoader(both, 8, True)
    for number in range(3):
        assert taken(loader, 2) == epoch(both, number)[:2]


def test_ranks_that_leave_their_loops_agree_on_the_next_epoch(store: Path) -> None:
    dataset = TokenDataset(store)
    ranks = [TokenLoader(dataset, 4, True, rank=rank, world_size=2) for rank in range(2)]
    for number in range(3):
        steps = zip(*(taken(loader, 2) for loader in ranks), strict=True)
        assert [first + second for first, second in steps] == epoch(dataset, number)[:2]


def test_an_iterator_that_gave_nothing_begins_no_epoch(store: Path) -> None:
    dataset = TokenDataset(store)
    loader = TokenLoader(dataset, 8, True)
    iter(loader)
    batches = iter(loader)
    batches.close()  # type: ignore[attr-defined]
    assert taken(loader, 8) == epoch(dataset, 0)


@pytest.mark.parametrize("stop", [1, 3, 8])
def test_a_loaded_state_is_gone_on_with_once(store: Path, stop: int) -> None:
    dataset = TokenDataset(store)
    before = TokenLoader(dataset, 8, True)
    taken(before, 2)
    taken(before, stop)
    state = json.loads(json.dumps(before.state_dict()))
    assert state["epoch"] == 1
    for chosen in (False, True):
        after = TokenLoader(dataset, 8, True)
        after.load_state_dict(state)
        if chosen:
            after.set_epoch(1)
        assert taken(after, 9) == epoch(dataset, 1)[stop:]
        assert taken(after, 9) == epoch(dataset, 2)
    left = TokenLoader(dataset, 8, True)
    left.load_state_dict(state)
    rest = taken(left, 1)
    assert rest == epoch(dataset, 1)[stop : stop + 1]
    if rest:
        assert taken(left, 2) == epoch(dataset, 2)[:2], "the rest of epoch 1 was begun, and left"


def test_a_state_goes_on_where_its_first_batch_failed(store: Path) -> None:
    dataset, fails = TokenDataset(store), [True]

    def transform(tokens: torch.Tensor, labels: torch.Tensor, *, generator: torch.Generator) -> Any:
        if fails:
            fails.clear()
            raise OSError("once")
        return tokens, labels

    before = TokenLoader(dataset, 8, True)
    taken(before, 3)
    after = TokenLoader(dataset, 8, True, num_threads=0, batch_transform=transform)
    after.load_state_dict(before.state_dict())
    with pytest.raises(OSError, match="once"):
        taken(after, 1)
    assert taken(after, 9) == epoch(dataset, 0)[3:]


def test_the_state_of_a_loop_that_was_left_is_in_its_epoch(store: Path) -> None:
    dataset = TokenDataset(store)
    loader = TokenLoader(dataset, 8, True)
    taken(loader, 3)
    again = TokenLoader(dataset, 8, True)
    again.load_state_dict(loader.state_dict())
    assert taken(again, 9) == epoch(dataset, 0)[3:]
    loader.set_epoch(0)
    again.load_state_dict(loader.state_dict())
    assert taken(again, 9) == epoch(dataset, 0), "the state of an epoch that is chosen again is its beginning"
    assert taken(loader, 9) == epoch(dataset, 0), "an epoch that is chosen again begins again"


def test_a_seed_of_none_is_drawn_by_torch(store: Path) -> None:
    dataset = TokenDataset(store)
    torch.manual_seed(7)
    first, second = (TokenLoader(dataset, 8, True, seed=None) for _ in range(2))
    torch.manual_seed(7)
    assert TokenLoader(dataset, 8, True, seed=None).seed == first.seed != second.seed
    resumed = TokenLoader(dataset, 8, True)
    batches = taken(first, 2)
    resumed.load_state_dict(first.state_dict())
    rest = taken(resumed, 9)
    assert sorted(label for batch in batches + rest for label in batch) == list(range(SAMPLES))
    with pytest.raises(ValueError, match="seed: expected a number, the same on all 2 ranks"):
        TokenLoader(dataset, 8, True, seed=None, rank=0, world_size=2)
