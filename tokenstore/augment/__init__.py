"""Augmentation of tokens: modules over batches of codes (B, H, W) or embeddings (B, C, H, W)."""

from tokenstore.augment import recipes
from tokenstore.augment.colour import ColorAdapt, EmbNoise, OneOf
from tokenstore.augment.cropped_embedding import CroppedEmbedding
from tokenstore.augment.crops import CenterCrop, RandomResizedCrop, random_boxes, resized_crop
from tokenstore.augment.embedding import CodebookEmbedding
from tokenstore.augment.geometry import DrawnGeometry, Geometry, HorizontalFlip, RandomAffine
from tokenstore.augment.mixing import CutMix, CutMixOrMixup, Mixup, soft_targets
from tokenstore.augment.on_codes import (
    PatchSwap,
    RandomCrop,
    SynonymReplacement,
    nearest_codes,
    synonym_table,
)
from tokenstore.augment.per_sample import PerSample
from tokenstore.augment.recipes import Recipe
from tokenstore.augment.requantise import Requantise
from tokenstore.augment.token_adapt import AdapterConfig, TokenAdapt, adapter_geometry

__all__ = [
    "AdapterConfig",
    "CenterCrop",
    "CodebookEmbedding",
    "ColorAdapt",
    "CroppedEmbedding",
    "CutMix",
    "CutMixOrMixup",
    "DrawnGeometry",
    "EmbNoise",
    "Geometry",
    "HorizontalFlip",
    "Mixup",
    "OneOf",
    "PatchSwap",
    "PerSample",
    "RandomAffine",
    "RandomCrop",
    "RandomResizedCrop",
    "Recipe",
    "Requantise",
    "SynonymReplacement",
    "TokenAdapt",
    "adapter_geometry",
    "nearest_codes",
    "random_boxes",
    "recipes",
    "resized_crop",
    "soft_targets",
    "synonym_table",
]
