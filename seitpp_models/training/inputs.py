"""The samples of a store that a network is trained on, and the checks that they fit it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from seitpp_models.errors import ModelError, SamplesError
from seitpp_models.networks.store_sizes import sizes_of
from tokenstore.errors import Parameter
from tokenstore.format import MASKS, TOKENS
from tokenstore.loading import TokenDataset
from tokenstore.reading import TokenStore, open_store

__all__ = [
    "check_labels",
    "check_masks",
    "code_entropy",
    "codebook_of",
    "opened",
    "share_of",
    "synonyms_of",
    "training_samples",
]


def opened(store: str | Path | TokenStore) -> tuple[TokenStore, str]:
    """Return an open store and its name for messages; raises StoreError if a path has none."""
    if isinstance(store, TokenStore):
        return store, store.files.storage.url
    return open_store(str(store)), str(store)


def training_samples(store: TokenStore, split: str, columns: Sequence[str]) -> TokenDataset:
    """Return the samples of a split with `columns`.

    Raises ModelError if networks do not take such codes, or if a column is missing; StoreError if the store
    has no such split.
    """
    dataset = TokenDataset(store, split, columns=[TOKENS])
    where = f"{store.files.storage.url}/{split}"
    sizes_of(store)
    for column in columns:
        if column not in dataset.rows.columns:
            masks = Parameter("masks")
            way = str(masks) if column == MASKS else "class folders"
            raise ModelError(
                f"{where}: expected {column}, found {', '.join(dataset.rows.columns)}; convert the images "
                f"with {way}",
                parameters=[masks],
            )
    views = store.manifest.views
    if MASKS in columns and views is not None:
        raise ModelError(
            f"{where}: expected one view of each image, found {views.count}: label maps show the image; "
            "convert the images without views"
        )
    return TokenDataset(store, split, columns=columns)


def share_of(dataset: TokenDataset, share: float, seed: int) -> TokenDataset:
    """Return a random share of each class, at least one sample: a function of `seed` and the dataset."""
    if share == 1:
        return dataset
    rng = np.random.default_rng(seed)
    labels = dataset.rows.labels
    groups = np.zeros(len(dataset), np.int64) if labels is None else labels
    drawn = [
        rng.permutation(members)[: max(1, round(share * len(members)))]
        for members in (np.flatnonzero(groups == group) for group in np.unique(groups))
    ]
    return dataset.select(np.sort(np.concatenate(drawn)))


def code_entropy(dataset: TokenDataset, most: int = 10_000) -> float:
    """Return the nats of a code, by the frequency of each code in up to `most` samples, evenly spread.

    A network that knows nothing of a code's neighbours has this loss.
    """
    row_numbers = np.linspace(0, len(dataset) - 1, min(most, len(dataset))).astype(np.int64)
    counts = np.zeros(dataset.rows.manifests[0].codebook_size, np.int64)
    for part in np.array_split(row_numbers, -(-len(row_numbers) // 1000)):
        counts += np.bincount(dataset.rows.read(TOKENS, part).ravel(), minlength=len(counts))
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def codebook_of(store: TokenStore) -> Tensor:
    """Return the vectors (K, C) float32 of a store's codes; raises ModelError if the store has none."""
    sizes_of(store)
    return torch.from_numpy(np.array(store.codebook))


def synonyms_of(store: TokenStore) -> Tensor | None:
    """Return the nearest codes (K, M) int64 that a store has of its codes, or None."""
    synonyms = store.synonyms
    return None if synonyms is None else torch.from_numpy(np.array(synonyms)).long()


def check_labels(dataset: TokenDataset, classes: int) -> None:
    """Raise ModelError if a dataset has no labels, SamplesError if a label is not below `classes`."""
    labels = dataset.rows.labels
    if labels is None:
        raise ModelError(f"{dataset!r}: expected labels, found none")
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise SamplesError(
            f"{dataset!r}: expected labels from 0 to {classes - 1}, found {labels[wrong[0]]} at row "
            f"{wrong[0]} and {len(wrong) - 1} more; make the network for more classes, or filter the store",
            wrong,
        )


def check_masks(dataset: TokenDataset, classes: int, ignore_index: int, batch: int = 256) -> int:
    """Return the number of labels, from 0 to the largest that is not ignored.

    Labels of `classes` go from 0 to `classes` - 1, or to `classes` if the ignored one is among them, as in
    ADE20K, where 0 is no class and 150 is the last.

    Raises ModelError if label maps do not fit their grids, SamplesError if one has unknown labels.
    """
    last = classes if ignore_index < classes else classes - 1
    largest = 0
    shape, grid = dataset.column(MASKS).shape, dataset.column(TOKENS).shape
    if len(shape) != 2 or any(side % places for side, places in zip(shape, grid, strict=True)):
        size = Parameter("mask_size")
        raise ModelError(
            f"{dataset!r}: expected label maps of whole multiples of the grid {grid}, found {shape}; convert "
            f"the images with another {size}",
            parameters=[size],
        )
    for start in range(0, len(dataset), batch):
        row_numbers = np.arange(start, min(start + batch, len(dataset)))
        masks = dataset.rows.read(MASKS, row_numbers)
        largest = max(largest, int(np.max(masks, initial=0, where=masks != ignore_index)))
        wrong = (masks > last) & (masks != ignore_index)
        if wrong.any():
            row, *_ = np.argwhere(wrong)[0]
            parameters = Parameter("classes"), Parameter("ignore_index")
            raise SamplesError(
                f"{dataset!r}: expected labels from 0 to {last} or {ignore_index}, which is ignored, "
                f"found {masks[row][wrong[row]][0]} in the map of row {row_numbers[row]}; give "
                f"{parameters[0]} or {parameters[1]}",
                row_numbers[wrong.any((1, 2))],
                parameters=parameters,
            )
    return largest + 1
