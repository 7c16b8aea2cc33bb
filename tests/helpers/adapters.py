"""TokenAdapts for tests: small ones, and tensors of the published names and shapes."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenstore.augment import (
    AdapterConfig,
    TokenAdapt,
)
from tokenstore.format.manifest import TokenizerIdentity

SMALL = AdapterConfig(20, 8, (4, 6), (3, 5), width=64, heads=1, mlp=96)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def official_shapes(codes: int = 391) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of f and g in the published checkpoints."""
    shapes: dict[str, tuple[int, ...]] = {
        "conversion_function.0.weight": (384, 32),
        "conversion_function.0.bias": (384,),
        "conversion_function.1.de_pos_embedding": (1, 1024, 384),
        "conversion_function.1.to_pixel.1.weight": (384, 32, 2, 2),
        "conversion_function.1.to_pixel.1.bias": (32,),
        "reverse_transform.0.en_pos_embedding": (1, 784, 384),
        "reverse_transform.0.to_patch_embedding.0.weight": (384, 32, 2, 2),
        "reverse_transform.0.to_patch_embedding.0.bias": (384,),
        "reverse_transform.1.weight": (codes, 384),
        "reverse_transform.1.bias": (codes,),
    }
    for part in ("conversion_function.1", "reverse_transform.0"):
        block = f"{part}.transformer.layers.0"
        shapes |= {
            f"{block}.0.norm.weight": (384,),
            f"{block}.0.norm.bias": (384,),
            f"{block}.0.fn.to_qkv.weight": (1152, 384),
            f"{block}.0.fn.to_out.weight": (384, 384),
            f"{block}.0.fn.to_out.bias": (384,),
            f"{block}.1.norm.weight": (384,),
            f"{block}.1.norm.bias": (384,),
            f"{block}.1.fn.net.0.weight": (1536, 384),
            f"{block}.1.fn.net.0.bias": (1536,),
            f"{block}.1.fn.net.2.weight": (384, 1536),
            f"{block}.1.fn.net.2.bias": (384,),
            f"{part}.transformer.norm.weight": (384,),
            f"{part}.transformer.norm.bias": (384,),
        }
    return shapes


def official_tensors(seed: int = 0) -> dict[str, Tensor]:
    generator = seeded(seed)
    return {name: torch.randn(shape, generator=generator) / 16 for name, shape in official_shapes().items()}


def small_adapter(seed: int = 0) -> TokenAdapt:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return TokenAdapt(SMALL, tokenizer=TokenizerIdentity("some tokenizer", "ab" * 32))
