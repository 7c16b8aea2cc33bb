"""Tiny MaskGIT VQGANs of random weights, their checkpoints, and their slow re-statement."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from helpers.slow_networks import Array, Weights, conv, doubled, group_norm, swish
from helpers.vqgan_models import random_weights
from tokenstore.tokenizers.kinds.maskgit_vqgan import MaskgitShape, MaskgitVQGAN

SHAPE = MaskgitShape(outer=32, channels=(32, 64), blocks=2, latent_channels=6)
CODES = 48


def random_checkpoint(seed: int = 0) -> dict[str, Tensor]:
    """Draw the tensors of a checkpoint."""
    return random_weights(MaskgitVQGAN(SHAPE, SHAPE, CODES), seed)


def write_checkpoint(path: Path) -> Path:
    """Write a random checkpoint, and return its path."""
    torch.save(random_checkpoint(), path)
    return path


def slow_block(x: Array, weights: Weights, name: str) -> Array:
    """Return a block's features: a shortcut is of the branch, not of x."""
    branch = conv(swish(group_norm(x, weights, f"{name}.norm1")), weights, f"{name}.conv1")
    branch = conv(swish(group_norm(branch, weights, f"{name}.norm2")), weights, f"{name}.conv2")
    shortcut = f"{name}.nin_shortcut"
    return branch + (conv(branch, weights, shortcut) if f"{shortcut}.weight" in weights else x)


def slow_latents(image: npt.NDArray[np.uint8], weights: Weights) -> Array:
    """Return latents (D, h, w) of an image (3, H, W)."""
    x = conv(image / 255, weights, "encoder.conv_in")
    for level in range(len(SHAPE.channels)):
        for block in range(SHAPE.blocks):
            x = slow_block(x, weights, f"encoder.down.{level}.block.{block}")
        if level < len(SHAPE.channels) - 1:
            x = (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4
    for block in range(SHAPE.blocks):
        x = slow_block(x, weights, f"encoder.mid.{block}")
    return conv(swish(group_norm(x, weights, "encoder.norm_out")), weights, "encoder.conv_out")


def slow_pixels(
    vectors: Array, weights: Weights, part: str = "decoder", shape: MaskgitShape = SHAPE
) -> Array:
    """Return pixels (3, H, W) about 0..1 of vectors (D, h, w)."""
    x = conv(vectors, weights, f"{part}.conv_in")
    for block in range(SHAPE.blocks):
        x = slow_block(x, weights, f"{part}.mid.{block}")
    for level in reversed(range(len(SHAPE.channels))):
        for block in range(SHAPE.blocks):
            x = slow_block(x, weights, f"{part}.up.{level}.block.{block}")
        if level:
            x = conv(doubled(x), weights, f"{part}.up.{level}.upsample_conv")
    return conv(swish(group_norm(x, weights, f"{part}.norm_out")), weights, f"{part}.conv_out")
