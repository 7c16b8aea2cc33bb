"""TokenDataset: a store's split as a map-style dataset for torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch.utils.data import Dataset, default_collate

from tokenstore.reader import Indices, SplitReader, TokenStore, normalised, open_store
from tokenstore.store import LABELS, TOKENS

Transform: TypeAlias = Callable[[Any], Any]


class TokenDataset(Dataset[Any]):
    """Samples of one split, each a tuple of its columns; a single column is not wrapped in a tuple.

    `dataset[i]` is `(tokens, label)`: tokens (*grid) int64, label int; `dataset[a:b]` is the same for a
    batch, collated: tokens (m, *grid), labels (m,) int64. `columns` chooses other aligned arrays and their
    order; by default they are the tokens and, where the split has them, the labels. Columns of scalars
    give Python numbers, others tensors. `transform` is applied to each sample's tokens, `target_transform`
    to its label or, without one, to its first column that is not the tokens. `indices` (m,) restricts and
    orders the dataset.

    Batches of indices (`__getitems__`, which torch's DataLoader calls) are decoded in one call. The dataset
    pickles to its location and is safe in forked, spawned and persistent workers.

    Raises StoreError for a split or column that is not there, ValueError where `columns` is not a list of
    names, IndexError for indices out of range.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | TokenStore,
        split: str = "train",
        transform: Transform | None = None,
        target_transform: Transform | None = None,
        columns: Sequence[str] | None = None,
        indices: Sequence[int] | Indices | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        store = path if isinstance(path, TokenStore) else open_store(path, storage_options=storage_options)
        self.reader: SplitReader = store[split]
        self.split = split
        self.transform = transform
        self.target_transform = target_transform
        if columns is None:
            columns = [name for name in (TOKENS, LABELS) if name in self.reader.columns]
        if isinstance(columns, str) or not columns:
            raise ValueError(f"columns: expected a list of names such as ['tokens'], found {columns!r}")
        self.columns = tuple(columns)
        for name in self.columns:
            self.reader.read(name, [])
        self.indices = None if indices is None else normalised(indices, len(self.reader))

    @property
    def class_names(self) -> tuple[str, ...] | None:
        return self.reader.store.manifest.class_names

    def __repr__(self) -> str:
        where = f"{self.reader.store.storage.url}/{self.split}"
        return f"TokenDataset({where!r}, {len(self):,} samples of {', '.join(self.columns)})"

    @property
    def _target(self) -> str | None:
        others = [name for name in self.columns if name != TOKENS]
        return LABELS if LABELS in others else next(iter(others), None)

    def __len__(self) -> int:
        return len(self.reader) if self.indices is None else len(self.indices)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            positions = np.arange(*index.indices(len(self)))
            if not len(positions):
                raise IndexError(f"{index} selects none of {len(self)} samples")
            return default_collate(self._samples(positions))
        return self._samples(normalised([index], len(self)))[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        return self._samples(normalised(indices, len(self)))

    def _samples(self, positions: Indices) -> list[Any]:
        wanted = positions if self.indices is None else self.indices[positions]
        columns = [self._column(name, wanted) for name in self.columns]
        for name, function in ((TOKENS, self.transform), (self._target, self.target_transform)):
            if function is not None and name in self.columns:
                place = self.columns.index(name)
                columns[place] = [function(value) for value in columns[place]]
        return list(columns[0]) if len(columns) == 1 else list(zip(*columns, strict=True))

    def _column(self, name: str, wanted: Indices) -> Sequence[Any]:
        layout = self.reader.arrays[name].layout
        if name == TOKENS:
            tokens = torch.empty((len(wanted), *layout.sample_shape), dtype=torch.int64)
            self.reader.read(name, wanted, out=tokens.numpy())
            return tokens.unbind(0)
        values = self.reader.read(name, wanted)
        if values.ndim == 1:
            scalars: list[Any] = values.tolist()
            return scalars
        return torch.from_numpy(values).unbind(0)
