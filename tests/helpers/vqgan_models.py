"""Tiny VQGANs of random weights, as checkpoints of the published layouts, and their slow re-statement."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from helpers.slow_networks import Array, Weights, conv, doubled, group_norm, softmax, swish
from tokenstore.tokenizers.convolutional import Half, Shape
from tokenstore.tokenizers.kinds.vqgan import VQGAN, VQGANConfig, namer
from tokenstore.tokenizers.lookups import LOOKUPS

SHAPE = Shape(32, (32, 64), 8, Half(1, (1,), True), Half(2, (1,), True))
TINY = VQGANConfig(SHAPE, 6, 40, "euclidean", "taming")
IBQ = replace(
    TINY,
    shape=Shape(32, (32,) * 5, 8, Half(4, (), True), Half(5, (), False)),
    code_dim=256,
    lookup="dot",
)
VARIANTS = {
    "taming": TINY,
    "gumbel": replace(TINY, lookup="gumbel"),
    "latent diffusion, no attention": replace(
        TINY, shape=Shape(32, (64, 32, 32), 5, Half(2, (), False), Half(3, (), False)), code_dim=3
    ),
    "llamagen": replace(TINY, lookup="cosine", layout="llamagen"),
    "ibq": IBQ,
}
"""The configs of tiny models of each layout and look-up."""


def random_weights(network: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """Draw weights of a network, none of them 0 or 1 all over, so that none can be forgotten unnoticed."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {}
    for name, tensor in network.state_dict().items():
        values = torch.randn(tensor.shape, generator=generator)
        is_scale = tensor.ndim == 1 and name.endswith("weight")
        spread = 0.2 if tensor.ndim == 1 else 1.0 if "embed" in name else 1.4 / tensor[0].numel() ** 0.5
        drawn[name] = is_scale + spread * values
    return drawn


def random_checkpoint(config: VQGANConfig = TINY, seed: int = 0, averaged: bool = False) -> dict[str, Tensor]:
    """Draw the tensors of a checkpoint by the names of its layout, and some that only training needs."""
    weights = random_weights(VQGAN(config), seed)
    tensors = {namer(config)(name): tensor for name, tensor in weights.items()}
    tensors["loss.discriminator.weight"] = torch.ones(3)
    if config.layout == "llamagen":
        tensors["quantize.codebook_used"] = torch.zeros(65536)
    if averaged:
        others = random_weights(VQGAN(config), seed + 1)
        averaged_weights = {namer(config)(name).replace(".", ""): values for name, values in others.items()}
        tensors |= {f"model_ema.{name}": values for name, values in averaged_weights.items()}
        tensors |= {
            "model_ema.decay": torch.ones(()),
            "model_ema.num_updates": torch.ones((), dtype=torch.int),
        }
        tensors["model_ema.lossdiscriminatorweight"] = torch.ones(3)
    return tensors


def write_checkpoint(path: Path, config: VQGANConfig = TINY) -> Path:
    """Write a random checkpoint as its program does, and return its path."""
    key = "model" if config.layout == "llamagen" else "state_dict"
    torch.save({key: random_checkpoint(config), "epoch": 3}, path)
    return path


def images(count: int, height: int = 16, width: int = 24, seed: int = 0) -> Tensor:
    """Draw images of noise, uint8 (B, 3, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, height, width), generator=generator, dtype=torch.uint8)


def slow_block(x: Array, weights: Weights, name: str) -> Array:
    """Return a residual block's features."""
    branch = conv(swish(group_norm(x, weights, f"{name}.norm1")), weights, f"{name}.conv1")
    branch = conv(swish(group_norm(branch, weights, f"{name}.norm2")), weights, f"{name}.conv2")
    shortcut = f"{name}.nin_shortcut"
    return branch + (conv(x, weights, shortcut) if f"{shortcut}.weight" in weights else x)


def slow_attention(x: Array, weights: Weights, name: str) -> Array:
    """Return the features of attention over all positions; those of x where the model has none there."""
    if f"{name}.q.weight" not in weights:
        return x
    normed = group_norm(x, weights, f"{name}.norm")
    q, k, v = (conv(normed, weights, f"{name}.{part}").reshape(len(x), -1) for part in "qkv")
    shares = softmax(q.T @ k / np.sqrt(len(x)))
    return x + conv((v @ shares.T).reshape(x.shape), weights, f"{name}.proj_out")


def slow_middle(x: Array, weights: Weights, name: str) -> Array:
    """Return the features behind the middle."""
    x = slow_attention(slow_block(x, weights, f"{name}.block_1"), weights, f"{name}.attn_1")
    return slow_block(x, weights, f"{name}.block_2")


def slow_latents(image: npt.NDArray[np.uint8], weights: Weights, shape: Shape) -> Array:
    """Return latents (D, h, w) of an image (3, H, W), with the names of taming-transformers."""
    x = conv(image / 255 * 2 - 1, weights, "encoder.conv_in")
    for level in range(len(shape.channels)):
        for block in range(shape.encoder.blocks):
            x = slow_block(x, weights, f"encoder.down.{level}.block.{block}")
            x = slow_attention(x, weights, f"encoder.down.{level}.attn.{block}")
        if level < len(shape.channels) - 1:
            x = conv(x, weights, f"encoder.down.{level}.downsample.conv", stride=2, pads=(0, 1))
    x = slow_middle(x, weights, "encoder.mid")
    x = conv(swish(group_norm(x, weights, "encoder.norm_out")), weights, "encoder.conv_out")
    return conv(x, weights, "quant_conv")


def slow_pixels(vectors: Array, weights: Weights, shape: Shape) -> Array:
    """Return pixels (3, H, W) about -1..1 of vectors (D, h, w)."""
    x = conv(conv(vectors, weights, "post_quant_conv"), weights, "decoder.conv_in")
    x = slow_middle(x, weights, "decoder.mid")
    for level in reversed(range(len(shape.channels))):
        for block in range(shape.decoder.blocks):
            x = slow_block(x, weights, f"decoder.up.{level}.block.{block}")
            x = slow_attention(x, weights, f"decoder.up.{level}.attn.{block}")
        if level:
            x = conv(doubled(x), weights, f"decoder.up.{level}.upsample.conv")
    return conv(swish(group_norm(x, weights, "decoder.norm_out")), weights, "decoder.conv_out")


def slow_codes(latents: Array, weights: Weights, lookup: str) -> npt.NDArray[np.int64]:
    """Return codes (h, w) of latents (D, h, w), one position at a time."""
    codes = np.empty(latents.shape[1:], np.int64)
    table = weights[f"quantize.{LOOKUPS[lookup].table_name}"]
    for place in np.ndindex(codes.shape):
        z = latents[(slice(None), *place)]
        if lookup == "euclidean":
            codes[place] = np.argmin(((table - z) ** 2).sum(1))
        elif lookup == "cosine":
            codes[place] = np.argmax(table @ z / np.linalg.norm(table, axis=1) / np.linalg.norm(z))
        elif lookup == "dot":
            codes[place] = np.argmax(table @ z)
        else:
            logits = weights["quantize.proj.weight"][:, :, 0, 0] @ z + weights["quantize.proj.bias"]
            codes[place] = np.argmax(logits)
    return codes
