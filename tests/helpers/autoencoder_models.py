"""Small autoencoders of diffusers, images to fit a codebook to, and fits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tokenstore.sources.base import ImageSplit
from tokenstore.sources.images import ImageOptions
from tokenstore.tokenizers.train.fitting import FitOptions, learn_codebook

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")

from tokenstore.tokenizers.kinds.autoencoder import AutoencoderTokenizer, load_autoencoder  # noqa: E402

SIZE = 32
SMALL = FitOptions(codebook_size=32, iterations=20, batch_vectors=256)


def make_kl(**changes: object) -> torch.nn.Module:
    """Make an AutoencoderKL of stride 4 with 4 latent channels."""
    torch.manual_seed(3)
    config = {"block_out_channels": (8, 8, 8), "norm_num_groups": 4, "layers_per_block": 1}
    kinds = {
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
    }
    return diffusers.AutoencoderKL(**(config | kinds | changes))


def make_tiny(**changes: object) -> torch.nn.Module:
    """Make an AutoencoderTiny of stride 4 with 4 latent channels."""
    torch.manual_seed(4)
    widths = {"encoder_block_out_channels": (8, 8, 8), "decoder_block_out_channels": (8, 8, 8)}
    blocks = {"num_encoder_blocks": (1, 1, 1), "num_decoder_blocks": (1, 1, 1)}
    return diffusers.AutoencoderTiny(**(widths | blocks | changes))


def make_dc() -> torch.nn.Module:
    """Make an AutoencoderDC of stride 2 with 2 latent channels."""
    torch.manual_seed(5)
    blocks = {
        f"{part}_{name}": value
        for part in ("encoder", "decoder")
        for name, value in (
            ("block_types", "ResBlock"),
            ("block_out_channels", (8, 8)),
            ("layers_per_block", (1, 1)),
            ("qkv_multiscales", ((), ())),
        )
    }
    return diffusers.AutoencoderDC(latent_channels=2, attention_head_dim=4, **blocks)


def smooth_images(count: int, size: int = SIZE) -> torch.Tensor:
    """Draw colours that run into each other, (count, 3, size, size) uint8."""
    coarse = torch.rand((count, 3, 4, 4), generator=torch.Generator().manual_seed(7)) * 255
    return torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear").to(torch.uint8)


def fit(split: ImageSplit, model: Path, options: FitOptions = SMALL) -> AutoencoderTokenizer:
    """Fit a codebook to the latents of a split's images."""
    return learn_codebook(split, load_autoencoder(str(model)), ImageOptions(SIZE), options)[0]
