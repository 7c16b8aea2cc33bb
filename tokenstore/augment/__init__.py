"""Augmentation of tokens: modules over batches of codes (B, H, W) or embeddings (B, C, H, W)."""

from tokenstore.augment.cropped_embedding import CroppedEmbedding
from tokenstore.augment.crops import CenterCrop, RandomResizedCrop, random_boxes, resized_crop
from tokenstore.augment.embedding import CodebookEmbedding

__all__ = [
    "CenterCrop",
    "CodebookEmbedding",
    "CroppedEmbedding",
    "RandomResizedCrop",
    "random_boxes",
    "resized_crop",
]
