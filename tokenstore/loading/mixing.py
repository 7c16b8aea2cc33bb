"""Several datasets as one: one after another, or mixed in fixed proportion."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from typing import Self

from tokenstore.errors import StoreError
from tokenstore.format.layout import LABELS
from tokenstore.loading.dataset import Shuffle, TokenDataset
from tokenstore.loading.sampling import Mixture, Order, Stopping
from tokenstore.reading import Concatenated, Indices

__all__ = ["MixedDataset", "concat", "mix"]

_SEED_STEP = 0x9E3779B97F4A7C15
"""Sets apart the orders of datasets that are mixed."""


def concat(datasets: Sequence[TokenDataset]) -> TokenDataset:
    """The samples of several datasets, one after another; nothing is copied.

    Raises StoreError where datasets differ in tokenizer, grid, columns or, where labels are read, in their
    class names; ValueError where they differ in transforms.
    """
    dataset = copy.copy(datasets[0]) if datasets else None
    if dataset is None:
        raise ValueError("datasets: expected at least one, found none")
    dataset.rows = _joined(datasets)
    return dataset


def mix(
    datasets: Sequence[TokenDataset],
    weights: Sequence[float] | None = None,
    stopping: Stopping = "all_exhausted",
) -> MixedDataset:
    """Samples of several datasets in the proportion of `weights`, by default that of their sizes.

    The proportion holds in every stretch of the epoch, to a sample or two. Each dataset is gone through in
    its own order, and on from where the last epoch stopped. An epoch ends before a dataset would have to
    begin again (stopping="first_exhausted"), or as soon as every sample of all has come ("all_exhausted",
    where smaller ones repeat). Raises like `concat`, and ValueError for weights that are not positive.
    """
    return MixedDataset(datasets, weights, stopping)


class MixedDataset(TokenDataset):
    """What `mix` returns. As a map-style dataset, its samples are those of one epoch, in an order without
    shuffling."""

    def __init__(
        self,
        datasets: Sequence[TokenDataset],
        weights: Sequence[float] | None = None,
        stopping: Stopping = "all_exhausted",
    ) -> None:
        if not datasets:
            raise ValueError("datasets: expected at least one, found none")
        first = datasets[0]
        self._take(_joined(datasets), first.columns, first.transform, first.target_transform)
        self.datasets = tuple(datasets)
        sizes = [len(dataset) for dataset in datasets]
        self.weights = tuple(map(float, sizes if weights is None else weights))
        self.stopping: Stopping = stopping
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose samples indexing gives; a TokenLoader chooses by itself."""
        self._in_order = self.order(0, epoch, "none", 1)

    def __len__(self) -> int:
        return len(self._in_order)

    @property
    def fingerprint(self) -> str:
        return f"{self.rows.fingerprint} {self.weights} {self.stopping}"

    def select(self, indices: Sequence[int] | Indices) -> Self:
        """Not of a mixture: raises StoreError."""
        raise StoreError("expected a dataset that is not mixed: select, filter or split before mixing")

    def order(self, seed: int, epoch: int, shuffle: Shuffle, window: int) -> Order:
        orders = [
            partial(_order_of_pass, dataset, (seed + number * _SEED_STEP) % 2**63, shuffle, window)
            for number, dataset in enumerate(self.datasets)
        ]
        return Mixture(
            orders, [len(dataset) for dataset in self.datasets], self.weights, self.stopping, epoch
        )

    def _rows_at(self, positions: Indices) -> Indices:
        return self._in_order(positions)


def _order_of_pass(dataset: TokenDataset, seed: int, shuffle: Shuffle, window: int, number: int) -> Order:
    return dataset.order(seed, number, shuffle, window)


def _joined(datasets: Sequence[TokenDataset]) -> Concatenated:
    first = datasets[0]
    if any(isinstance(dataset, MixedDataset) for dataset in datasets):
        raise StoreError("expected datasets that are not mixed: concatenate before mixing")
    rows = Concatenated([dataset.rows for dataset in datasets])
    for other in datasets:
        if other.columns != first.columns:
            raise StoreError(
                f"expected the columns {first.columns} of {first!r}, found {other.columns} in {other!r}. "
                "Give both the same by columns="
            )
        if (other.transform, other.target_transform) != (first.transform, first.target_transform):
            raise ValueError("expected the same transforms in all datasets: set them on the result instead")
        if LABELS in first.columns and other.class_names != first.class_names:
            raise StoreError(
                f"labels mean different classes in {first!r} and {other!r}: "
                f"{_beginning(first.class_names)} and {_beginning(other.class_names)}. "
                "Leave them out by columns=['tokens']"
            )
    for name in first.columns:
        rows.sample_type(name)
    return rows


def _beginning(names: tuple[str, ...] | None) -> str:
    return "classes without names" if names is None else f"{len(names)} classes {', '.join(names[:3])} ..."
