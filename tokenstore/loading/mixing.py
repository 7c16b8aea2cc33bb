"""Several datasets as one: one after another, or mixed in fixed proportion."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Self

import numpy as np
from typing_extensions import override

from tokenstore.errors import Parameter, StoreError
from tokenstore.format import LABELS
from tokenstore.loading.dataset import Shuffle, TokenDataset
from tokenstore.loading.sampling import Mixture, Order, Stopping
from tokenstore.loading.views import View
from tokenstore.randomness import GAMMA
from tokenstore.reading import Concatenated, Indices, Rows, Subset

__all__ = ["MixedDataset", "concat", "mix"]

_SEED_STEP: Final = GAMMA
"""The step between the seeds of datasets that are mixed, so that their orders are unrelated."""


def concat(datasets: Sequence[TokenDataset]) -> TokenDataset:
    """Return a dataset of the samples of several datasets, one after another; nothing is copied.

    Samples of a store without views are joined with views of others: each is its one view.

    Raises StoreError where datasets differ in tokenizer, grid, columns or, where labels are read, in their
    class names; ValueError where they differ in transforms or in the view that they give, or for no dataset.
    """
    if not datasets:
        raise ValueError("datasets: expected at least one, found none")
    dataset = copy.copy(datasets[0])
    dataset.rows = _joined(datasets)
    dataset = dataset.with_view(_common_view(datasets))
    for name in dataset.columns:
        dataset.column(name)
    return dataset


def mix(
    datasets: Sequence[TokenDataset],
    weights: Sequence[float] | None = None,
    stopping: Stopping = "all_exhausted",
) -> MixedDataset:
    """Mix samples of several datasets in the proportion of `weights`, by default that of their sizes.

    The proportion holds in every stretch of the epoch, to within a sample or two. Each dataset is read in
    its own order, and goes on where the last epoch stopped. With stopping="first_exhausted", an epoch ends
    before a dataset would have to begin again. With "all_exhausted", it ends as soon as every sample of all
    datasets has come, and smaller datasets repeat. Raises StoreError and ValueError as `concat` does, and
    ValueError for weights that are not positive.
    """
    return MixedDataset(datasets, weights, stopping)


class MixedDataset(TokenDataset):
    """The dataset that `mix` returns.

    As a map-style dataset, its samples are those of one epoch, in the order without shuffling.
    """

    def __init__(
        self,
        datasets: Sequence[TokenDataset],
        weights: Sequence[float] | None = None,
        stopping: Stopping = "all_exhausted",
    ) -> None:
        if not datasets:
            raise ValueError("datasets: expected at least one, found none")
        first = datasets[0]
        view = _common_view(datasets)
        self._set_up(_joined(datasets), first.columns, first.transform, first.target_transform, view)
        self.datasets = tuple(datasets)
        sizes = [len(dataset) for dataset in datasets]
        self.weights = tuple(map(float, sizes if weights is None else weights))
        self.stopping: Stopping = stopping
        self.set_epoch(0)

    @override
    def set_epoch(self, epoch: int, seed: int = 0) -> None:
        """Choose the epoch whose samples, and whose views, indexing gives; a TokenLoader chooses by itself.

        The samples do not depend on `seed`, by which views are drawn, and the choice of samples is this
        process's own.
        """
        super().set_epoch(epoch, seed)
        self._in_order = self.order(0, epoch, "none", 1)

    def __len__(self) -> int:
        return len(self._in_order)

    @property
    @override
    def fingerprint(self) -> str:
        return f"{self.rows.fingerprint} {self.weights} {self.stopping}"

    @override
    def _subset(self, rows: Callable[[], Rows]) -> Self:
        """Raise StoreError: a mixture has no subsets."""
        raise StoreError("expected a dataset that is not mixed: select, filter or split before mixing")

    @override
    def order(self, seed: int, epoch: int, shuffle: Shuffle, window: int) -> Order:
        orders = [
            partial(_order_of_pass, dataset, (seed + number * _SEED_STEP) % 2**63, shuffle, window)
            for number, dataset in enumerate(self.datasets)
        ]
        return Mixture(
            orders, [len(dataset) for dataset in self.datasets], self.weights, self.stopping, epoch
        )

    def _row_numbers(self, positions: Indices) -> Indices:
        return self._in_order(positions)

    @override
    def _ordered_rows(self) -> Rows:
        return Subset(self.rows, self._row_numbers(np.arange(len(self))))


def _order_of_pass(dataset: TokenDataset, seed: int, shuffle: Shuffle, window: int, number: int) -> Order:
    return dataset.order(seed, number, shuffle, window)


def _joined(datasets: Sequence[TokenDataset]) -> Concatenated:
    first = datasets[0]
    if any(isinstance(dataset, MixedDataset) for dataset in datasets):
        raise StoreError("expected datasets that are not mixed: concatenate before mixing")
    rows = Concatenated([dataset.rows for dataset in datasets])
    columns = Parameter("columns")
    for other in datasets:
        if other.columns != first.columns:
            raise StoreError(
                f"expected the columns {first.columns} of {first!r}, found {other.columns} in {other!r}. "
                f"Give both datasets the same {columns}",
                parameters=[columns],
            )
        if (other.transform, other.target_transform) != (first.transform, first.target_transform):
            raise ValueError("expected the same transforms in all datasets: set them on the result instead")
        if LABELS in first.columns and other.class_names != first.class_names:
            tokens_only = Parameter("columns", ["tokens"])
            raise StoreError(
                f"labels mean different classes in {first!r} and {other!r}: "
                f"{_beginning(first.class_names)} and {_beginning(other.class_names)}. "
                f"Leave the labels out by {tokens_only}",
                parameters=[tokens_only],
            )
    return rows


def _common_view(datasets: Sequence[TokenDataset]) -> View | None:
    """Return the view that datasets give, but for those without views; raise ValueError for several."""
    views = list(dict.fromkeys(dataset.view for dataset in datasets if dataset.view is not None))
    if len(views) > 1:
        raise ValueError(f"view: expected the same in all datasets, found {views[0]!r} and {views[1]!r}")
    return views[0] if views else None


def _beginning(names: tuple[str, ...] | None) -> str:
    return "classes without names" if names is None else f"{len(names)} classes {', '.join(names[:3])} ..."
