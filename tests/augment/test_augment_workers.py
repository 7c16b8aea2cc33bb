"""Augmentation in the workers of a DataLoader: the same whatever their number, kind and batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.stores import random_codes, write_store
from torch.utils.data import DataLoader

from tokenstore import TokenDataset
from tokenstore.augment import AdapterConfig, PerSample, TokenAdapt, recipes

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes:UserWarning"),
]

SAMPLES = 24
CODES = random_codes(SAMPLES, (4, 6), 20)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write 24 samples whose labels are their row numbers."""
    path = tmp_path_factory.mktemp("augmented") / "store"
    labels = np.arange(SAMPLES, dtype=np.int32)
    write_store(path, {"train": (CODES, labels)}, 20, chunk_samples=4, shard_samples=16)
    return path


def transform() -> PerSample:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        adapter = TokenAdapt(AdapterConfig(20, 8, (4, 6), (3, 5), width=64, heads=1, mlp=96))
        codebook = torch.randn(20, 8)
    recipe = recipes.mtm_pretrain(codebook, adapter, (3, 5))
    return recipe.per_sample(5, torch.from_numpy(CODES[:6].astype(np.int64)))


def augmented(loader: DataLoader[Any]) -> dict[int, list[int]]:
    """Return the augmented codes of every sample by its row number."""
    by_row = {}
    for codes, labels in loader:
        by_row |= dict(zip(labels.tolist(), codes.flatten(1).tolist(), strict=True))
    assert sorted(by_row) == list(range(SAMPLES))
    return by_row


@pytest.fixture(scope="module")
def expected(store: Path) -> list[dict[int, list[int]]]:
    """Augment without workers, in two epochs, by two sizes of batches."""
    epochs = []
    for epoch, batch_size in ((0, 16), (3, SAMPLES)):
        plain = transform()
        plain.set_epoch(epoch)
        epochs.append(augmented(DataLoader(TokenDataset(store, transform=plain), batch_size=batch_size)))
    return epochs


@pytest.mark.parametrize(
    ("workers", "method"),
    [
        (1, "fork"),
        (4, "fork"),
        pytest.param(1, "spawn", marks=pytest.mark.thorough),
        pytest.param(4, "spawn", marks=pytest.mark.slow),
    ],
)
def test_workers_augment_as_no_workers_do(
    store: Path, expected: list[dict[int, list[int]]], workers: int, method: str
) -> None:
    own = transform()
    loader = DataLoader(
        TokenDataset(store, transform=own),
        batch_size=7,
        shuffle=True,
        num_workers=workers,
        multiprocessing_context=method,
        persistent_workers=True,
    )
    assert augmented(loader) == expected[0]
    own.set_epoch(3)
    assert augmented(loader) == expected[1] != expected[0]


def test_views_do_not_change_what_is_drawn_for_a_sample(store: Path) -> None:
    whole = TokenDataset(store, transform=transform())
    view = whole.select([20, 7, 11])
    for place, row in enumerate([20, 7, 11]):
        assert torch.equal(view[place][0], whole[row][0])
