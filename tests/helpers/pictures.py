"""Images to train tokenizers on and to encode."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image


def write_images(folder: Path, count: int, size: tuple[int, int]) -> Path:
    """Write smooth images with grain, all different."""
    rng = np.random.default_rng(size[0])
    folder.mkdir(parents=True)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
        coarse.resize(size, Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    """Draw blotches of colour with grain, uint8 of that shape (B, C, H, W): neither flat nor white noise."""
    generator = torch.Generator().manual_seed(seed)
    batch, channels, height, width = shape
    coarse = torch.rand((batch, channels, height // 8, width // 8), generator=generator) * 255
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    grain = 10 * torch.randn(shape, generator=generator)
    return (smooth + grain).round().clamp(0, 255).to(torch.uint8)
