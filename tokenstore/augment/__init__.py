"""Augmentation of tokens: modules over batches of codes (B, H, W) or of their embeddings (B, C, H, W).

Every module draws from an explicit `generator`, works on any device, and assumes neither a grid's size nor a
number of codes or channels. The entry points are the published recipes in `recipes` (such as
`recipes.finetune`), and `TokenAdapt` with its files (`load_adapter`, `save_adapter`). The single modules are
for recipes of one's own. Names are imported on first use, and so is the compiled loop of `CroppedEmbedding`.

May import: torch, and tokenstore's `errors`, `machine`, `randomness`, `files`, `networks` and `format`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenstore.augment import recipes
    from tokenstore.augment.adapter_config import AdapterConfig
    from tokenstore.augment.adapters import load_adapter, save_adapter
    from tokenstore.augment.codebooks import Codebook
    from tokenstore.augment.colour import PUBLISHED_NOISE, ColorAdapt, EmbNoise, Noise, OneOf, noise_strength
    from tokenstore.augment.cropped_embedding import CroppedEmbedding
    from tokenstore.augment.crops import CenterCrop, RandomResizedCrop, random_boxes, resized_crop
    from tokenstore.augment.embedding import CodebookEmbedding, TokenVectors, Vectors, token_vectors
    from tokenstore.augment.exact_flip import ExactFlip
    from tokenstore.augment.examples import augmented_examples, transformed_codes
    from tokenstore.augment.geometry import DrawnGeometry, Geometry, HorizontalFlip, RandomAffine
    from tokenstore.augment.ingredients import FLIPS, INGREDIENTS, Flip, Ingredients
    from tokenstore.augment.mixing import CutMix, CutMixOrMixup, Mixup, soft_targets
    from tokenstore.augment.on_codes import (
        PatchSwap,
        RandomCrop,
        SynonymReplacement,
        nearest_codes,
        synonym_table,
    )
    from tokenstore.augment.per_sample import PerSample
    from tokenstore.augment.recipe import Recipe
    from tokenstore.augment.requantise import Requantise
    from tokenstore.augment.seen_part import LEAST_CROPPED, seen_size
    from tokenstore.augment.several_codebooks import Combination, NumberVectors, SeveralCodebooks
    from tokenstore.augment.token_adapt import (
        ADAPTER_PARTS,
        PATCH_SIDE,
        TokenAdapt,
        adapter_geometry,
    )
    from tokenstore.augment.token_eda import TokenEDA

__all__ = [
    "ADAPTER_PARTS",
    "FLIPS",
    "INGREDIENTS",
    "LEAST_CROPPED",
    "PATCH_SIDE",
    "PUBLISHED_NOISE",
    "AdapterConfig",
    "CenterCrop",
    "Codebook",
    "CodebookEmbedding",
    "ColorAdapt",
    "Combination",
    "CroppedEmbedding",
    "CutMix",
    "CutMixOrMixup",
    "DrawnGeometry",
    "EmbNoise",
    "ExactFlip",
    "Flip",
    "Geometry",
    "HorizontalFlip",
    "Ingredients",
    "Mixup",
    "Noise",
    "NumberVectors",
    "OneOf",
    "PatchSwap",
    "PerSample",
    "RandomAffine",
    "RandomCrop",
    "RandomResizedCrop",
    "Recipe",
    "Requantise",
    "SeveralCodebooks",
    "SynonymReplacement",
    "TokenAdapt",
    "TokenEDA",
    "TokenVectors",
    "Vectors",
    "adapter_geometry",
    "augmented_examples",
    "load_adapter",
    "nearest_codes",
    "noise_strength",
    "random_boxes",
    "recipes",
    "resized_crop",
    "save_adapter",
    "seen_size",
    "soft_targets",
    "synonym_table",
    "token_vectors",
    "transformed_codes",
]

_HOMES = {
    "adapters": ("load_adapter", "save_adapter"),
    "colour": ("PUBLISHED_NOISE", "ColorAdapt", "EmbNoise", "Noise", "OneOf", "noise_strength"),
    "cropped_embedding": ("CroppedEmbedding",),
    "crops": ("CenterCrop", "RandomResizedCrop", "random_boxes", "resized_crop"),
    "codebooks": ("Codebook",),
    "embedding": ("CodebookEmbedding", "TokenVectors", "Vectors", "token_vectors"),
    "exact_flip": ("ExactFlip",),
    "examples": ("augmented_examples", "transformed_codes"),
    "geometry": ("DrawnGeometry", "Geometry", "HorizontalFlip", "RandomAffine"),
    "ingredients": ("FLIPS", "INGREDIENTS", "Flip", "Ingredients"),
    "mixing": ("CutMix", "CutMixOrMixup", "Mixup", "soft_targets"),
    "on_codes": ("PatchSwap", "RandomCrop", "SynonymReplacement", "nearest_codes", "synonym_table"),
    "per_sample": ("PerSample",),
    "recipe": ("Recipe",),
    "requantise": ("Requantise",),
    "seen_part": ("LEAST_CROPPED", "seen_size"),
    "several_codebooks": ("Combination", "NumberVectors", "SeveralCodebooks"),
    "adapter_config": ("AdapterConfig",),
    "token_adapt": ("ADAPTER_PARTS", "PATCH_SIDE", "TokenAdapt", "adapter_geometry"),
    "token_eda": ("TokenEDA",),
}
"""The public names of each module."""
_MODULES = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "recipes":
        return importlib.import_module(f"{__name__}.recipes")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
