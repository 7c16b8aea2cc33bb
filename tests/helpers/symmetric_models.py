"""A small symmetric tokenizer with random weights, which is quick to make."""

from __future__ import annotations

import torch

from tokenstore.tokenizers.kinds.symmetric_vq import SymmetricVQ, SymmetricVQConfig, SymmetricVQTokenizer

SMALL = SymmetricVQConfig(
    name="small-symmetric",
    image_size=64,
    codebook_size=60,
    self_paired=12,
    code_dim=8,
    encoder_width=32,
    encoder_blocks=2,
    decoder_width=32,
    decoder_blocks=2,
)


def random_model(config: SymmetricVQConfig = SMALL, seed: int = 0) -> SymmetricVQ:
    """Return a model of which no layer is zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SymmetricVQ(config)
        for weight in model.parameters():
            if weight.ndim > 1 and not weight.any():
                torch.nn.init.normal_(weight, std=0.1)
    return model.eval().requires_grad_(False)


def random_tokenizer(config: SymmetricVQConfig = SMALL, seed: int = 0) -> SymmetricVQTokenizer:
    return SymmetricVQTokenizer(random_model(config, seed))


def smooth_images(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Draw images (count, 3, height, width) uint8 of soft shapes and fine noise, with a white margin."""
    generator = torch.Generator().manual_seed(seed)
    coarse = 128 + 60 * torch.randn(count, 3, height // 4, width // 4, generator=generator)
    images = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    images += 4 * torch.randn(images.shape, generator=generator)
    images[..., :16] = 255
    return images.clamp(0, 255).to(torch.uint8)
