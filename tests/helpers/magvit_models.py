"""Tiny Open-MAGVIT2 models of random weights, their checkpoints, and their slow re-statement."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from helpers.slow_networks import Array, Weights, conv, group_norm, swish
from helpers.vqgan_models import random_weights
from tokenstore.tokenizers.kinds.open_magvit2 import MagvitConfig, OpenMagvit2

TINY = MagvitConfig(first=32, channels=(32, 64), blocks=2, bits=18)


def random_checkpoint(config: MagvitConfig = TINY, seed: int = 0) -> dict[str, Tensor]:
    """Draw the tensors of a checkpoint, and one that only training needs."""
    return random_weights(OpenMagvit2(config), seed) | {"loss.discriminator.weight": torch.ones(3)}


def write_checkpoint(path: Path, config: MagvitConfig = TINY) -> Path:
    """Write a random checkpoint as Lightning does, with averaged weights, and return its path."""
    averaged = random_weights(OpenMagvit2(config), 0)
    tensors = random_checkpoint(config, 1)
    tensors |= {f"model_ema.{name.replace('.', '')}": tensor for name, tensor in averaged.items()}
    tensors |= {"model_ema.decay": torch.ones(()), "quantize.mask": 2 ** torch.arange(18)}
    torch.save({"state_dict": tensors, "global_step": 7}, path)
    return path


def _block(x: Array, weights: Weights, name: str) -> Array:
    branch = conv(swish(group_norm(x, weights, f"{name}.norm1")), weights, f"{name}.conv1")
    branch = conv(swish(group_norm(branch, weights, f"{name}.norm2")), weights, f"{name}.conv2")
    shortcut = f"{name}.nin_shortcut"
    return branch + (conv(x, weights, shortcut) if f"{shortcut}.weight" in weights else x)


def slow_latents(image: npt.NDArray[np.uint8], weights: Weights, config: MagvitConfig) -> Array:
    """Return latents (bits, h, w) of an image (3, H, W)."""
    x = conv(image / 255 * 2 - 1, weights, "encoder.conv_in")
    for level in range(len(config.channels)):
        for block in range(config.blocks):
            x = _block(x, weights, f"encoder.down.{level}.block.{block}")
        if level < len(config.channels) - 1:
            x = conv(x, weights, f"encoder.down.{level}.downsample", stride=2)
    for block in range(config.blocks):
        x = _block(x, weights, f"encoder.mid_block.{block}")
    return conv(swish(group_norm(x, weights, "encoder.norm_out")), weights, "encoder.conv_out")


def _adaptive(x: Array, vectors: Array, weights: Weights, name: str) -> Array:
    positions = vectors.reshape(len(vectors), -1)
    spread = np.sqrt(positions.var(axis=1, ddof=1) + 1e-6)
    scale = weights[f"{name}.gamma.weight"] @ spread + weights[f"{name}.gamma.bias"]
    shift = weights[f"{name}.beta.weight"] @ positions.mean(axis=1) + weights[f"{name}.beta.bias"]
    return scale[:, None, None] * group_norm(x, weights, None) + shift[:, None, None]


def _depth_to_space(x: Array) -> Array:
    """Return (C, 2 h, 2 w) of (4 C, h, w): channel (2 down + right) C + c goes to channel c of that place."""
    channels = len(x) // 4
    out = np.empty((channels, 2 * x.shape[1], 2 * x.shape[2]))
    for down in range(2):
        for right in range(2):
            first = (2 * down + right) * channels
            out[:, down::2, right::2] = x[first : first + channels]
    return out


def slow_pixels(vectors: Array, weights: Weights, config: MagvitConfig) -> Array:
    """Return pixels (3, H, W) about -1..1 of vectors (bits, h, w)."""
    x = conv(vectors, weights, "decoder.conv_in")
    for block in range(config.blocks):
        x = _block(x, weights, f"decoder.mid_block.{block}")
    for level in reversed(range(len(config.channels))):
        x = _adaptive(x, vectors, weights, f"decoder.adaptive.{level}")
        for block in range(config.blocks):
            x = _block(x, weights, f"decoder.up.{level}.block.{block}")
        if level:
            x = _depth_to_space(conv(x, weights, f"decoder.up.{level}.upsample.conv1"))
    return conv(swish(group_norm(x, weights, "decoder.norm_out")), weights, "decoder.conv_out")
