"""The augmentations of training: published recipes, and one that moves codes and label maps alike."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from seitpp_models.errors import ModelError
from tokenstore.augment import (
    PATCH_SIDE,
    PUBLISHED_NOISE,
    CenterCrop,
    Codebook,
    CodebookEmbedding,
    ColorAdapt,
    EmbNoise,
    ExactFlip,
    Geometry,
    HorizontalFlip,
    Noise,
    OneOf,
    RandomResizedCrop,
    Requantise,
    TokenAdapt,
    noise_strength,
    recipes,
)
from tokenstore.format import NO_SYMMETRIES, Symmetries

__all__ = [
    "Augmentation",
    "CentralPart",
    "CodesAndMasks",
    "noise_identity",
    "segmentation_recipe",
    "training_recipe",
]

Augmentation: TypeAlias = Literal["mtm", "finetune", "seit", "none"]

_SEGMENTATION_SCALE = (0.25, 1.0)
"""The share of the area that a crop of codes and label maps has."""


class CentralPart(nn.Module):
    """The crop of the central `size` of codes, which become vectors with a codebook: no augmentation."""

    def __init__(self, size: tuple[int, int], codebook: Codebook | None = None) -> None:
        super().__init__()
        self.crop = CenterCrop(size)
        self.embedding = None if codebook is None else CodebookEmbedding(codebook)

    def forward(
        self, codes: Tensor, labels: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the central part of codes (B, H, W), or its vectors (B, C, h, w), and the labels."""
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
    noise: Noise = None,
    symmetries: Symmetries = NO_SYMMETRIES,
) -> nn.Module:
    """Return a published recipe, `(codes, labels) -> (inputs, targets)`.

    Its inputs are codes (B, H, W) of `size` if it `gives_codes`, else their vectors (B, C, H, W). `noise` is
    the strength of Emb-Noise, as for `noise_strength`. By the `symmetries` of a store, codes are flipped.
    Raises ModelError for an adapter with a recipe that uses none.
    """
    if adapter is not None and name not in ("mtm", "finetune"):
        raise ModelError(f"augment: expected mtm or finetune with an adapter, found {name}")
    if name == "none":
        return CentralPart(size, None if gives_codes else codebook)
    if name == "mtm":
        recipe = recipes.mtm_pretrain(codebook, adapter, size, noise, symmetries)
    elif name == "finetune":
        recipe = recipes.finetune(codebook, adapter, classes, size, noise, symmetries)
    else:
        recipe = recipes.seit(codebook, classes, size, noise=noise, symmetries=symmetries)
    recipe.requantise = recipe.embedding.requantiser() if gives_codes else None
    return recipe


def noise_identity(noise: Noise) -> float | None:
    """Return what a run's noise is compared by when the run is resumed: a number, or None for the default."""
    return PUBLISHED_NOISE if noise == "published" else noise


class CodesAndMasks(nn.Module):
    """An augmentation of codes (B, H, W) and label maps (B, h, w): one crop for both, colours for the codes.

    With an adapter, half of the batch is augmented by the adapter and flipped too; with the `symmetries` of a
    store, all of it is flipped exactly instead. The results are codes or
    vectors of `size`, and label maps that are larger by the factor they were.
    """

    def __init__(
        self,
        codebook: Codebook,
        size: tuple[int, int],
        *,
        gives_codes: bool,
        ignore_index: int,
        adapter: TokenAdapt | None = None,
        noise: Noise = None,
        scale: tuple[float, float] = _SEGMENTATION_SCALE,
        symmetries: Symmetries = NO_SYMMETRIES,
    ) -> None:
        super().__init__()
        self.flip = ExactFlip.of(symmetries)
        self.embedding = CodebookEmbedding(codebook)
        self.colour = OneOf([ColorAdapt(), EmbNoise(noise_strength(codebook, noise))], [1 / 3, 1 / 3])
        self.geometry = Geometry(crop=RandomResizedCrop(size, scale))
        places = (PATCH_SIDE * size[0], PATCH_SIDE * size[1])
        self.adapter = adapter
        self.adapter_geometry = Geometry(
            HorizontalFlip() if self.flip is None else None, crop=RandomResizedCrop(places, scale)
        )
        self.requantise = Requantise(self.embedding.codebook) if gives_codes else None
        self.ignore_index = ignore_index

    @torch.no_grad()
    def forward(self, codes: Tensor, masks: Tensor, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return codes (B, H, W), or vectors (B, C, H, W), and label maps (B, h, w) that moved alike."""
        count, (rows, columns) = len(codes), codes.shape[1:]
        if self.flip is not None:
            mask = self.flip.draw(count, generator)
            codes, masks = self.flip.flipped(codes, mask), self.flip.flipped_labels(masks, mask)
        embeddings = self.colour(self.embedding(codes), generator=generator)
        first = count if self.adapter is None else count - count // 2
        drawn = self.geometry.draw(first, (rows, columns), generator)
        inputs = drawn.apply(embeddings[:first])
        if self.requantise is not None:
            inputs = self.requantise(inputs)
        cropped = drawn.apply_to_labels(masks[:first], self.ignore_index)
        if self.adapter is None or first == count:
            return inputs, cropped
        drawn = self.adapter_geometry.draw(
            count - first, (PATCH_SIDE * rows, PATCH_SIDE * columns), generator
        )
        adapted = self.adapter.drawn_codes(embeddings[first:], drawn)
        others = drawn.apply_to_labels(masks[first:], self.ignore_index)
        inputs = torch.cat((inputs, adapted if self.requantise is not None else self.embedding(adapted)))
        return inputs, torch.cat((cropped, others))


def segmentation_recipe(
    name: Literal["crops", "none"],
    codebook: Codebook,
    size: tuple[int, int],
    *,
    gives_codes: bool,
    ignore_index: int,
    adapter: TokenAdapt | None = None,
    noise: Noise = None,
    symmetries: Symmetries = NO_SYMMETRIES,
) -> nn.Module:
    """Return an augmentation `(codes, masks) -> (inputs, masks)`: random crops and colours, or none.

    `noise` is the strength of Emb-Noise, as for `noise_strength`. By the `symmetries` of a store, codes and
    maps are flipped.

    Raises ModelError for an adapter without augmentation.
    """
    if name == "none":
        if adapter is not None:
            raise ModelError("augment: expected crops with an adapter, found none")
        return CentralPart(size, None if gives_codes else codebook)
    return CodesAndMasks(
        codebook,
        size,
        gives_codes=gives_codes,
        ignore_index=ignore_index,
        adapter=adapter,
        noise=noise,
        symmetries=symmetries,
    )
