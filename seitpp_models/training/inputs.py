"""What goes into a network: a store's samples, checked against it, and the augmentation they get."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from seitpp_models.errors import ModelError
from seitpp_models.networks.store_sizes import sizes_of
from tokenstore.augment import recipes
from tokenstore.augment.colour import ColorAdapt, EmbNoise, OneOf
from tokenstore.augment.crops import CenterCrop, RandomResizedCrop
from tokenstore.augment.embedding import Codebook, CodebookEmbedding
from tokenstore.augment.geometry import Geometry, HorizontalFlip
from tokenstore.augment.requantise import Requantise
from tokenstore.augment.token_adapt import SCALE, TokenAdapt
from tokenstore.format.layout import MASKS, TOKENS
from tokenstore.loading.dataset import TokenDataset
from tokenstore.reading import TokenStore

__all__ = [
    "Augmentation",
    "CentralPart",
    "MovedMasks",
    "check_labels",
    "check_masks",
    "code_entropy",
    "codebook_of",
    "segmentation_recipe",
    "share_of",
    "training_recipe",
    "training_samples",
]

Augmentation: TypeAlias = Literal["mtm", "finetune", "seit", "none"]

_SEGMENTATION_SCALE = (0.25, 1.0)


def training_samples(store: TokenStore, split: str, columns: Sequence[str]) -> TokenDataset:
    """A split's samples.

    Raises ModelError where networks cannot have such codes, or a column is missing; StoreError for a split
    that is not there.
    """
    dataset = TokenDataset(store, split, columns=[TOKENS])
    where = f"{store.files.storage.url}/{split}"
    sizes_of(store)
    for column in columns:
        if column not in dataset.rows.columns:
            way = "--masks" if column == MASKS else "class folders"
            raise ModelError(
                f"{where}: expected {column}, found {', '.join(dataset.rows.columns)}; convert the images "
                f"with {way}"
            )
    return TokenDataset(store, split, columns=columns)


def share_of(dataset: TokenDataset, share: float, seed: int) -> TokenDataset:
    """A random share of each class, at least a sample; it depends on `seed` and the dataset alone."""
    if share == 1:
        return dataset
    rng = np.random.default_rng(seed)
    found = dataset.rows.labels
    groups = np.zeros(len(dataset), np.int64) if found is None else found
    chosen = [
        rng.permutation(rows)[: max(1, round(share * len(rows)))]
        for rows in (np.flatnonzero(groups == group) for group in np.unique(groups))
    ]
    return dataset.select(np.sort(np.concatenate(chosen)))


def code_entropy(dataset: TokenDataset, most: int = 10_000) -> float:
    """Nats of a code, by how often each occurs in up to `most` samples, evenly spread.

    It is the loss of a network that knows nothing of a code's neighbours.
    """
    rows = np.linspace(0, len(dataset) - 1, min(most, len(dataset))).astype(np.int64)
    counts = np.zeros(dataset.rows.manifests[0].codebook_size, np.int64)
    for part in np.array_split(rows, -(-len(rows) // 1000)):
        counts += np.bincount(dataset.rows.read(TOKENS, part).ravel(), minlength=len(counts))
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def codebook_of(store: TokenStore) -> Tensor:
    """The vectors (K, C) float32 of a store's codes; raises ModelError where it does not hold them."""
    sizes_of(store)
    return torch.from_numpy(np.array(store.codebook))


def check_labels(dataset: TokenDataset, classes: int) -> None:
    """Raises ModelError where a label is no class of a network for so many."""
    labels = dataset.rows.labels
    if labels is None:
        raise ModelError(f"{dataset!r}: expected labels, found none")
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise ModelError(
            f"{dataset!r}: expected labels from 0 to {classes - 1}, found {labels[wrong[0]]} at row "
            f"{wrong[0]} and {len(wrong) - 1} more; make the network for more classes, or filter the store"
        )


def check_masks(dataset: TokenDataset, classes: int, ignore_index: int, batch: int = 256) -> None:
    """Raises ModelError where label maps do not fit a grid or a network for so many classes."""
    shape, grid = dataset.rows.sample_type(MASKS)[0], dataset.rows.sample_type(TOKENS)[0]
    if len(shape) != 2 or any(side % places for side, places in zip(shape, grid, strict=True)):
        raise ModelError(
            f"{dataset!r}: expected label maps of whole multiples of the grid {grid}, found {shape}; convert "
            "the images with another --mask-size"
        )
    for start in range(0, len(dataset), batch):
        rows = np.arange(start, min(start + batch, len(dataset)))
        masks = dataset.rows.read(MASKS, rows)
        wrong = (masks >= classes) & (masks != ignore_index)
        if wrong.any():
            row, *_ = np.argwhere(wrong)[0]
            raise ModelError(
                f"{dataset!r}: expected labels from 0 to {classes - 1} or {ignore_index}, which is ignored, "
                f"found {masks[row][wrong[row]][0]} in the map of row {rows[row]}; give --classes or "
                "--ignore-index"
            )


class CentralPart(nn.Module):
    """The central `size` of codes, as codes, or with a codebook as their vectors; no augmentation."""

    def __init__(self, size: tuple[int, int], codebook: Codebook | None = None) -> None:
        super().__init__()
        self.crop = CenterCrop(size)
        self.embedding = None if codebook is None else CodebookEmbedding(codebook)

    def forward(
        self, codes: Tensor, labels: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor | None]:
        central = self.crop(codes)
        return (central if self.embedding is None else self.embedding(central)), labels


def training_recipe(
    name: Augmentation,
    codebook: Codebook,
    size: tuple[int, int],
    *,
    gives_codes: bool,
    classes: int = 0,
    adapter: TokenAdapt | None = None,
    noise: float | None = None,
) -> nn.Module:
    """`(codes, labels) -> (inputs, targets)`: a published recipe, its inputs codes or their vectors.

    `noise` is the strength of Emb-Noise, by default the standard deviation of the codebook's numbers: the
    published 1.0 would drown vectors of length one.
    Raises ModelError where an adapter is given to a recipe that has none.
    """
    if adapter is not None and name not in ("mtm", "finetune"):
        raise ModelError(f"augment: expected mtm or finetune with an adapter, found {name}")
    if name == "none":
        return CentralPart(size, None if gives_codes else codebook)
    noise = float(torch.as_tensor(codebook).std()) if noise is None else noise
    if name == "mtm":
        recipe = recipes.mtm_pretrain(codebook, adapter, size, noise)
    elif name == "finetune":
        recipe = recipes.finetune(codebook, adapter, classes, size, noise)
    else:
        recipe = recipes.seit(codebook, classes, size, noise=noise)
    recipe.requantise = Requantise(recipe.embedding.codebook) if gives_codes else None
    return recipe


class MovedMasks(nn.Module):
    """Codes (B, H, W) and label maps (B, h, w): a flip and a crop that both get, colour for the codes.

    With an adapter, half of the batch takes its path. Inputs are codes or vectors of `size`, label maps as
    much larger as they were.
    """

    def __init__(
        self,
        codebook: Codebook,
        size: tuple[int, int],
        *,
        gives_codes: bool,
        ignore_index: int,
        adapter: TokenAdapt | None = None,
        scale: tuple[float, float] = _SEGMENTATION_SCALE,
    ) -> None:
        super().__init__()
        self.embedding = CodebookEmbedding(codebook)
        noise = float(self.embedding.codebook.std())
        self.colour = OneOf([ColorAdapt(), EmbNoise(noise)], [1 / 3, 1 / 3])
        self.geometry = Geometry(crop=RandomResizedCrop(size, scale))
        places = (SCALE * size[0], SCALE * size[1])
        self.adapter = adapter
        self.adapter_geometry = Geometry(HorizontalFlip(), crop=RandomResizedCrop(places, scale))
        self.requantise = Requantise(self.embedding.codebook) if gives_codes else None
        self.ignore_index = ignore_index

    @torch.no_grad()
    def forward(self, codes: Tensor, masks: Tensor, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        count, (rows, columns) = len(codes), codes.shape[1:]
        embeddings = self.colour(self.embedding(codes), generator=generator)
        first = count if self.adapter is None else count - count // 2
        drawn = self.geometry.draw(first, (rows, columns), generator)
        inputs = drawn.apply(embeddings[:first])
        if self.requantise is not None:
            inputs = self.requantise(inputs)
        moved = drawn.apply_to_labels(masks[:first], self.ignore_index)
        if self.adapter is None or first == count:
            return inputs, moved
        drawn = self.adapter_geometry.draw(count - first, (SCALE * rows, SCALE * columns), generator)
        adapted = self.adapter.drawn_codes(embeddings[first:], drawn)
        others = drawn.apply_to_labels(masks[first:], self.ignore_index)
        inputs = torch.cat((inputs, adapted if self.requantise is not None else self.embedding(adapted)))
        return inputs, torch.cat((moved, others))


def segmentation_recipe(
    name: Literal["crops", "none"],
    codebook: Codebook,
    size: tuple[int, int],
    *,
    gives_codes: bool,
    ignore_index: int,
    adapter: TokenAdapt | None = None,
) -> nn.Module:
    """`(codes, masks) -> (inputs, masks)`: random crops and colours, or the whole as it is."""
    if name == "none":
        if adapter is not None:
            raise ModelError("augment: expected crops with an adapter, found none")
        return CentralPart(size, None if gives_codes else codebook)
    return MovedMasks(codebook, size, gives_codes=gives_codes, ignore_index=ignore_index, adapter=adapter)
