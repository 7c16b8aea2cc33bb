"""A dataset whose samples come in the order that a sampler of torch draws for each epoch."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from hashlib import sha256
from typing import Any, Self

import numpy as np
import torch
from typing_extensions import override

from tokenstore.errors import ArgumentError
from tokenstore.loading.dataset import Shuffle, TokenDataset
from tokenstore.loading.sampling import Indices, Listed, Order
from tokenstore.randomness import derived_seed
from tokenstore.reading import Rows, Subset

__all__ = ["sampled"]

_INSTEAD = (
    "torch.utils.data.DataLoader(dataset, sampler=...) takes any sampler, and decodes a batch in one call"
)


def sampled(dataset: TokenDataset, sampler: Iterable[int] | None, shuffle: object) -> TokenDataset:
    """Return a dataset with the order of a sampler, or as it is without one.

    Raises ArgumentError for a sampler besides `shuffle`, and as `SampledDataset` does.
    """
    if sampler is None:
        return dataset
    if shuffle:
        raise ArgumentError("sampler, shuffle: expected one at most, found both; each says the order")
    return SampledDataset(dataset, sampler)


class SampledDataset(TokenDataset):
    """The samples of a dataset that a sampler draws, which TokenLoader's `sampler` makes.

    The sampler draws from torch's default generator or its own `generator`, which are seeded by (seed, epoch)
    meanwhile: the order of an epoch is the same on every rank, and after resuming. As a map-style dataset,
    its samples are those of epoch 0 with seed 0.

    Raises ArgumentError for a mixed dataset, for a sampler that does its own division among ranks, gives
    anything but as many indices of samples as its length says, or draws otherwise the second time.
    """

    def __init__(self, dataset: TokenDataset, sampler: Iterable[int]) -> None:
        if len(dataset.rows) != len(dataset):
            raise ArgumentError("sampler: expected a dataset that is not mixed; a mixture has its own order")
        if hasattr(sampler, "num_replicas"):
            raise ArgumentError(
                "sampler: leave it out, since TokenLoader gives each rank its part; give shuffle, seed, "
                "drop_last or pad, and rank and world_size where torch.distributed does not know them"
            )
        self._set_up(dataset.rows, dataset.columns, dataset.transform, dataset.target_transform)
        self._sampler = sampler
        self._last: tuple[tuple[int, int], Indices] | None = None
        self._first = self._drawn(0, 0)
        if not np.array_equal(self._draw(0, 0), self._first):
            raise ArgumentError(
                "sampler: expected an order that depends on torch's random numbers alone, which can be "
                f"resumed; {type(sampler).__name__} draws another one each time. {_INSTEAD}"
            )

    def __len__(self) -> int:
        return len(self._first)

    @property
    @override
    def fingerprint(self) -> str:
        digest = sha256(self._first.astype("<i8").tobytes()).hexdigest()
        return f"{self.rows.fingerprint} {type(self._sampler).__name__}[{digest[:16]}]"

    @override
    def select(self, indices: Any) -> Self:
        """Raise ArgumentError: samples are selected before a sampler draws of them."""
        raise ArgumentError("expected a dataset without a sampler: select, filter or split before loading")

    @override
    def order(self, seed: int, epoch: int, shuffle: Shuffle, window: int) -> Order:
        return Listed(self._drawn(seed, epoch))

    def _row_numbers(self, positions: Indices) -> Indices:
        return self._first[positions]

    @override
    def _ordered_rows(self) -> Rows:
        return Subset(self.rows, self._row_numbers(np.arange(len(self))))

    def _drawn(self, seed: int, epoch: int) -> Indices:
        """Return the row numbers of an epoch; those of the last one asked for are kept."""
        if self._last is None or self._last[0] != (seed, epoch):
            self._last = (seed, epoch), self._draw(seed, epoch)
        return self._last[1]

    def _draw(self, seed: int, epoch: int) -> Indices:
        sampler: Any = copy.copy(self._sampler)
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)
        own = getattr(sampler, "generator", None)
        if isinstance(own, torch.Generator):
            sampler.generator = torch.Generator().manual_seed(derived_seed(own.initial_seed(), seed, epoch))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derived_seed(seed, epoch))
            return self._checked(list(sampler), sampler)

    def _checked(self, drawn: list[Any], sampler: Any) -> Indices:
        expected = len(sampler) if hasattr(sampler, "__len__") else len(drawn)
        rows = np.array(drawn) if drawn else np.empty(0, np.int64)
        if rows.ndim != 1 or rows.dtype.kind not in "iu":
            raise ArgumentError(f"sampler: expected indices of samples, found {drawn[0]!r:.100}. {_INSTEAD}")
        wrong = rows[(rows < 0) | (rows >= len(self.rows))]
        if len(wrong):
            raise ArgumentError(
                f"sampler: expected indices from 0 to {len(self.rows) - 1}, found {wrong[0]}; make the "
                "sampler of the dataset that is loaded"
            )
        if len(rows) != expected:
            raise ArgumentError(f"sampler: expected {expected} indices as its length is, found {len(rows)}")
        return rows.astype(np.int64)
