"""Tiny ViT-VQGANs of random weights, their checkpoints, and images."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from tokenstore.tokenizers.kinds.vit_vqgan import (
    ViTVQGAN,
    ViTVQGANConfig,
    ViTVQGANTokenizer,
    load,
    random_model,
)

TINY = ViTVQGANConfig(width=48, depth=2, heads=2, mlp=80, grid=4)
Tensors = dict[str, Tensor]


def random_tensors(config: ViTVQGANConfig = TINY, seed: int = 0) -> Tensors:
    """Draw weights of which none is 0 or 1 all over, so that none can be forgotten unnoticed."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=generator)

    tensors = {}
    for name, tensor in random_model(config, seed).state_dict().items():
        if tensor.ndim == 1:
            tensors[name] = float(name.endswith("norm.weight")) + 0.2 * drawn(tuple(tensor.shape))
        elif "pos_embedding" in name or "quantizer" in name:
            tensors[name] = drawn(tuple(tensor.shape))
        else:
            tensors[name] = tensor + 0.05 * drawn(tuple(tensor.shape))
    return tensors


def saved(path: Path, tensors: object) -> Path:
    """Save tensors by `torch.save`, and return the path."""
    torch.save(tensors, path)
    return path


def loaded(path: Path, tensors: object) -> ViTVQGANTokenizer:
    """Save tensors, and load the file as a tokenizer."""
    return load(str(saved(path, tensors)))


def images(count: int, size: int = TINY.image_size, seed: int = 0) -> Tensor:
    """Draw images of noise, uint8 (B, 3, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)


def shapes_of(config: ViTVQGANConfig) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a model's tensors by name."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in ViTVQGAN(config).state_dict().items()}
