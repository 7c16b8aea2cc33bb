"""The augmentations of training: published recipes, and one that moves codes and label maps alike."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from seitpp_models.errors import ModelError
from seitpp_models.training.resolving import ARMS, Settings
from tokenstore.augment import (
    INGREDIENTS,
    PATCH_SIDE,
    PUBLISHED_NOISE,
    CenterCrop,
    Geometry,
    HorizontalFlip,
    Ingredients,
    Noise,
    RandomResizedCrop,
    TokenAdapt,
    TokenVectors,
    Vectors,
    recipes,
    token_vectors,
)
from tokenstore.augment.adapter_config import described_sizes
from tokenstore.augment.recipes import code_flip, colour_of
from tokenstore.errors import Parameter
from tokenstore.format import FLIP, NO_SYMMETRIES, Symmetries

__all__ = [
    "Augmentation",
    "CentralPart",
    "CodesAndMasks",
    "noise_identity",
    "segmentation_recipe",
    "training_recipe",
]

_NO_AUGMENTATION = "none"
"""The name of the augmentation without ingredients."""


@dataclass(frozen=True)
class Augmentation:
    """The augmentation that a run's settings ask for."""

    name: str
    ingredients: Ingredients | None
    """The ingredients; None for the central part alone."""
    noise: Noise = None
    """The strength of Emb-Noise, as for `noise_strength`."""

    @classmethod
    def named(cls, name: str) -> Augmentation:
        """Return an augmentation by its name, with its own ingredients."""
        return cls(name, INGREDIENTS.get(name))

    @classmethod
    def of(cls, settings: Settings) -> Augmentation:
        """Return the augmentation of a run's settings."""
        name = settings["augment"]
        if name == _NO_AUGMENTATION:
            return cls(name, None, settings["noise"])
        arms = {arm: settings[arm] for arm in ARMS if arm in settings.values}
        if "smoothing" in settings.values and INGREDIENTS[name].smoothing:
            arms["smoothing"] = settings["smoothing"]
        return cls(name, replace(INGREDIENTS[name], **arms), settings["noise"])

    @property
    def identity(self) -> str:
        """The text by which a resumed run's augmentation is compared, beside its noise."""
        own = INGREDIENTS.get(self.name)
        same = self.ingredients == own
        return self.name if same else f"{self.name} {self.ingredients}"

    def facts(self, adapter: str | None, symmetries: Symmetries) -> dict[str, Any]:
        """Return what is on in a run, as JSON values by name.

        `adapter` is the name of the TokenAdapt in use, and `symmetries` are the store's. The flip is exact,
        naive, adapter (that of TokenAdapt's half alone) or none.
        """
        if self.ingredients is None:
            return {}
        flip: str | None = self.ingredients.flip
        if flip is None:
            alone = "none" if adapter is None else "adapter"
            flip = alone if code_flip(None, symmetries) is None else "exact"
        return {**self.ingredients.to_dict(), "flip": flip, "adapter": adapter or "none"}


class CentralPart(nn.Module):
    """The crop of the central `size` of codes, which become vectors with a codebook: no augmentation."""

    def __init__(self, size: tuple[int, int], codebook: Vectors | None = None) -> None:
        super().__init__()
        self.crop = CenterCrop(size)
        self.embedding = None if codebook is None else token_vectors(codebook)

    def forward(
        self, codes: Tensor, labels: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the central part of codes (B, H, W), or its vectors (B, C, h, w), and the labels."""
        central = self.crop(codes)
        return (central if self.embedding is None else self.embedding(central)), labels


class WholeLists(nn.Module):
    """The crop of lists of tokens, which are seen whole: a part of a list is no part of an image."""

    def forward(self, embeddings: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return the embeddings (B, C, 1, L) as they are."""
        return embeddings


def training_recipe(
    augmentation: Augmentation,
    codebook: Vectors | None,
    size: tuple[int, int],
    *,
    gives_codes: bool,
    classes: int = 0,
    adapter: TokenAdapt | None = None,
    synonyms: Tensor | None = None,
    symmetries: Symmetries = NO_SYMMETRIES,
) -> nn.Module:
    """Return a recipe, `(codes, labels) -> (inputs, targets)`.

    Its inputs are codes (B, H, W) of `size` if it `gives_codes`, else their vectors (B, C, H, W). `synonyms`
    (K, M) and `symmetries` are a store's. Of lists of tokens, grids of one row, nothing is cropped. A
    codebook is needed for all but codes without augmentation. Raises ModelError for an adapter without
    ingredients or for other codes, an adapter or a flip of lists, and an exact flip of codes that have no
    symmetry for it.
    """
    ingredients = augmentation.ingredients
    if ingredients is None:
        if adapter is not None:
            raise ModelError(f"augment: expected another one with an adapter, found {augmentation.name}")
        return CentralPart(size, None if gives_codes else codebook)
    assert codebook is not None  # inputs.augmented_vectors gives some, or raises
    _check_flip(ingredients, symmetries)
    if size[0] == 1:
        _check_lists(ingredients, adapter)
    _check_adapter(adapter, token_vectors(codebook))
    recipe = recipes.made_of(
        ingredients,
        codebook,
        adapter=adapter,
        classes=classes,
        size=size,
        noise=augmentation.noise,
        synonyms=synonyms,
        symmetries=symmetries,
    )
    recipe.requantise = recipe.embedding.requantiser() if gives_codes else None
    if size[0] == 1:
        recipe.crop = WholeLists()
    return recipe


def _check_adapter(adapter: TokenAdapt | None, vectors: TokenVectors) -> None:
    """Raise ModelError for an adapter of other codes than those of the vectors, or of other channels."""
    if adapter is None:
        return
    own = adapter.config
    if (own.codebook_sizes, own.channels) != (vectors.codebook_sizes, vectors.channels):
        wrong = Parameter("adapter")
        raise ModelError(
            f"{wrong}: expected one for {described_sizes(vectors.codebook_sizes)} with vectors of "
            f"{vectors.channels} channels, found one for {described_sizes(own.codebook_sizes)} and "
            f"{own.channels} channels; seitpp_models.adapter.train_tokenadapt trains one",
            parameters=[wrong],
        )


def _check_lists(ingredients: Ingredients, adapter: TokenAdapt | None) -> None:
    """Raise ModelError for what moves tokens in an image, where tokens are lists without places in it."""
    wrong = Parameter("flip", "naive") if ingredients.flip == "naive" else Parameter("adapter")
    if adapter is not None or ingredients.flip == "naive":
        raise ModelError(
            f"{wrong}: expected none for lists of tokens, which have no places in the image, found one",
            parameters=[wrong],
        )


def _check_flip(ingredients: Ingredients, symmetries: Symmetries) -> None:
    """Raise ModelError for an exact flip of codes that have no symmetry for it."""
    if ingredients.flip == "exact" and FLIP not in symmetries:
        parameters = Parameter("flip", "exact"), Parameter("flip", "naive")
        raise ModelError(
            f"{parameters[0]}: expected a store whose codes have a symmetry to flip by, found none; convert "
            f"the images with a tokenizer that has one, or give {parameters[1]} or none",
            parameters=parameters,
        )


def noise_identity(noise: Noise) -> float | None:
    """Return what a run's noise is compared by when the run is resumed: a number, or None for the default."""
    return PUBLISHED_NOISE if noise == "published" else noise


class CodesAndMasks(nn.Module):
    """An augmentation of codes (B, H, W) and label maps (B, h, w): one crop for both, colours for the codes.

    With an adapter, half of the batch is augmented by the adapter and flipped too, unless all of it is
    flipped by the ingredients or by the `symmetries` of a store. The results are codes or vectors of `size`,
    and label maps that are larger by the factor they were.
    """

    def __init__(
        self,
        codebook: Vectors,
        size: tuple[int, int],
        *,
        gives_codes: bool,
        ignore_index: int,
        adapter: TokenAdapt | None = None,
        noise: Noise = None,
        ingredients: Ingredients = INGREDIENTS["crops"],
        symmetries: Symmetries = NO_SYMMETRIES,
    ) -> None:
        super().__init__()
        self.flip = code_flip(ingredients.flip, symmetries)
        self.embedding = token_vectors(codebook)
        self.colour = colour_of(ingredients, self.embedding, noise)
        self.geometry = Geometry(crop=RandomResizedCrop(size, ingredients.scale))
        places = (PATCH_SIDE * size[0], PATCH_SIDE * size[1])
        self.adapter = adapter
        flip = HorizontalFlip() if ingredients.is_flipped_by_adapter(self.flip) else None
        self.adapter_geometry = Geometry(flip, crop=RandomResizedCrop(places, ingredients.scale))
        self.requantise = self.embedding.requantiser() if gives_codes else None
        self.ignore_index = ignore_index

    @torch.no_grad()
    def forward(self, codes: Tensor, masks: Tensor, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return codes (B, H, W), or vectors (B, C, H, W), and label maps (B, h, w) that moved alike."""
        count, (rows, columns) = len(codes), codes.shape[-2:]
        if self.flip is not None:
            mask = self.flip.draw(count, generator)
            codes, masks = self.flip.flipped(codes, mask), self.flip.flipped_labels(masks, mask)
        embeddings = self.embedding(codes)
        if self.colour is not None:
            embeddings = self.colour(embeddings, generator=generator)
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
    augmentation: Augmentation,
    codebook: Vectors | None,
    size: tuple[int, int],
    *,
    gives_codes: bool,
    ignore_index: int,
    adapter: TokenAdapt | None = None,
    symmetries: Symmetries = NO_SYMMETRIES,
) -> nn.Module:
    """Return an augmentation `(codes, masks) -> (inputs, masks)`: random crops and colours, or none.

    Codes and maps are flipped by the `symmetries` of a store, or as the ingredients say. Raises ModelError
    for an adapter without augmentation or for other codes, and for an exact flip of codes that have no
    symmetry for it.
    """
    ingredients = augmentation.ingredients
    if ingredients is None:
        if adapter is not None:
            raise ModelError("augment: expected crops with an adapter, found none")
        return CentralPart(size, None if gives_codes else codebook)
    assert codebook is not None  # inputs.augmented_vectors gives some, or raises
    _check_flip(ingredients, symmetries)
    _check_adapter(adapter, token_vectors(codebook))
    return CodesAndMasks(
        codebook,
        size,
        gives_codes=gives_codes,
        ignore_index=ignore_index,
        adapter=adapter,
        noise=augmentation.noise,
        ingredients=ingredients,
        symmetries=symmetries,
    )
