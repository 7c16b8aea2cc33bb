"""Small VQModels of diffusers with random weights, and what the library makes of images and codes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.model_folders import spoil_config

diffusers = pytest.importorskip("diffusers")


WEIGHTS = "diffusion_pytorch_model.safetensors"
CODES, DIM, STRIDE, SIDE = 128, 6, 4, 48


def build(**changes: Any) -> Any:
    """Build a small VQModel of random weights whose codebook holds latents of noise, so that codes vary."""
    torch.manual_seed(0)
    model = diffusers.VQModel(
        **{
            "block_out_channels": (8, 16, 16),
            "down_block_types": ("DownEncoderBlock2D",) * 3,
            "up_block_types": ("UpDecoderBlock2D",) * 3,
            "latent_channels": 4,
            "vq_embed_dim": DIM,
            "num_vq_embeddings": CODES,
            "norm_num_groups": 4,
            "sample_size": SIDE,
            **changes,
        }
    ).eval()
    with torch.no_grad():
        latents = model.encode(as_pixels(noise(1, 64, 64))).latents  # 1, D, 16, 16
        model.quantize.embedding.weight.copy_(latents[0].flatten(1).T[:CODES])
    return model


def noise(batch: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Draw images of noise, uint8 (B, 3, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, 3, height, width), generator=generator, dtype=torch.uint8)


def as_pixels(images: torch.Tensor) -> torch.Tensor:
    """Return images as pixels from -1 to 1."""
    return images.float() / 127.5 - 1


def as_pipeline(folder: Path, parts: dict[str, str], model: Path) -> Path:
    """Write a folder with a config of that class in every sub-folder, and the model's weights beside each."""
    for part, class_name in parts.items():
        shutil.copytree(model, folder / part)
        spoil_config(folder / part, {"_class_name": class_name})
    (folder / "model_index.json").write_text("{}")
    return folder
