"""The part that all contenders read through torch's DataLoader share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler


def whole_batches(
    dataset: Dataset[Any], batch_size: int, workers: int, seed: int, **options: Any
) -> Callable[[int], Iterator[Any]]:
    """Return epochs of a data set that gives a whole batch for a list of indices, in a shuffled order."""
    drawn = RandomSampler(dataset, generator=torch.Generator().manual_seed(seed))
    loader: DataLoader[Any] = DataLoader(
        dataset,
        sampler=BatchSampler(drawn, batch_size, drop_last=False),
        batch_size=None,
        num_workers=workers,
        persistent_workers=workers > 0,
        **options,
    )
    return lambda _: iter(loader)
