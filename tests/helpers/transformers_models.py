"""Small VQ models of transformers with random weights, and what the library makes of images and codes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers")

from tokenstore.tokenizers.kinds.transformers_vq import (  # noqa: E402
    ChameleonTokenizer,
    Emu3Tokenizer,
    JanusTokenizer,
)

CODES = 96
SHAPE = {"base_channels": 32, "channel_multiplier": [1, 1, 1], "num_res_blocks": 1}
STRIDE = 4
FRAMES = 2
CONFIGS: dict[str, Callable[..., Any]] = {
    "chameleon": lambda **changes: transformers.ChameleonVQVAEConfig(
        **SHAPE, latent_channels=8, embed_dim=6, num_embeddings=CODES, resolution=32, **changes
    ),
    "janus": lambda **changes: transformers.JanusVQVAEConfig(
        **{
            **SHAPE,
            "latent_channels": 8,
            "embed_dim": 6,
            "num_embeddings": CODES,
            "num_patches": 6,
            **changes,
        }
    ),
    "emu3": lambda **changes: transformers.Emu3VQVAEConfig(
        **SHAPE,
        **{"temporal_downsample_factor": FRAMES, **changes},
        codebook_size=CODES,
        attn_resolutions=[2],
        hidden_size=32,
    ),
}
MODELS = {
    "chameleon": lambda config: transformers.ChameleonVQVAE(config),
    "janus": lambda config: transformers.JanusVQVAE(config),
    "emu3": lambda config: transformers.Emu3VQVAE(config),
}
TOKENIZERS = {"chameleon": ChameleonTokenizer, "janus": JanusTokenizer, "emu3": Emu3Tokenizer}
FAMILIES = tuple(MODELS)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    """Draw noise of a shape, uint8."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def as_pixels(family: str, images: torch.Tensor) -> torch.Tensor:
    """Return pixels as the published models of a family have them."""
    if family == "chameleon":
        return images.float() * 0.0078 - 1
    return (images.float() * (1 / 255) - 0.5) / 0.5


def latents_of(family: str, model: Any, images: torch.Tensor) -> torch.Tensor:
    """Return the vectors (n, D) that a model quantises for images (B, 3, H, W) or (B, T, 3, H, W)."""
    kept = []
    handle = model.quantize.register_forward_pre_hook(lambda module, inputs: kept.append(inputs[0]))
    library_codes(family, model, images)
    handle.remove()
    return torch.cat([part.movedim(-3, -1).reshape(-1, part.shape[-3]) for part in kept])


def build(family: str, **changes: Any) -> Any:
    """Build a small model of random weights whose codebook holds latents of noise, so that codes vary."""
    torch.manual_seed(0)
    model = MODELS[family](CONFIGS[family](**changes)).eval()
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.fill_(0.5)
        vectors = latents_of(family, model, noise(1, 3, 64, 64, seed=9))
        model.quantize.embedding.weight.copy_(vectors[:CODES])
    return model


def library_codes(family: str, model: Any, images: torch.Tensor) -> torch.Tensor:
    """Return codes (B, *grid) of the model's own encode, input by input."""
    height, width = images.shape[-2:]
    grids = []
    with torch.no_grad():
        for one in images.split(1):
            pixels = as_pixels(family, one)
            if family == "emu3":
                grids.append(torch.stack(model.encode(pixels, [(height, width)]).image_tokens))
            else:
                codes = model.encode(pixels).image_tokens
                grids.append(codes.view(1, height // STRIDE, width // STRIDE))
    return torch.cat(grids)
