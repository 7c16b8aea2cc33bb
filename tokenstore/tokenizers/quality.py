"""How well a tokenizer rebuilds images: PSNR, SSIM and the use of its codes."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tokenstore.tokenizers.base import Tokenizer


def psnr(images: Tensor, rebuilt: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each image, (B,), of uint8 images (B, 3, H, W)."""
    error = (images.double() - rebuilt.double()).square().mean((1, 2, 3))
    return 10 * torch.log10(255**2 / error)


def ssim(images: Tensor, rebuilt: Tensor) -> Tensor:
    """Structural similarity of each image, (B,), over RGB, with Wang et al.'s (2004) Gaussian window."""
    offsets = torch.arange(11, dtype=torch.float64) - 5
    line = torch.exp(-(offsets**2) / (2 * 1.5**2))
    line = (line / line.sum()).expand(3, 1, 1, 11)

    def mean(values: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(values, line, groups=3), line.mT, groups=3)

    x, y = images.double(), rebuilt.double()
    mean_x, mean_y = mean(x), mean(y)
    var_x, var_y = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    ratio = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return (ratio / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean((1, 2, 3))


@dataclass(frozen=True)
class Quality:
    """How well a tokenizer rebuilds a set of images: means over images, and the use of its codes."""

    images: int
    psnr: float
    ssim: float
    perplexity: float
    unused_codes: int
    images_per_second: float

    def __str__(self) -> str:
        return (
            f"{self.images} images: PSNR {self.psnr:.2f} dB, SSIM {self.ssim:.3f}, perplexity "
            f"{self.perplexity:.0f}, unused codes {self.unused_codes}, encode {self.images_per_second:.1f}/s"
        )


def evaluate(tokenizer: Tokenizer, images: Iterable[Tensor]) -> Quality:
    """Encode and decode images, each (3, H, W) uint8; at least one."""
    uses = torch.zeros(tokenizer.codebook_sizes[0], dtype=torch.int64)
    noise, similarity, seconds = [], [], 0.0
    for image in images:
        start = time.perf_counter()
        codes = tokenizer.encode(image[None])
        seconds += time.perf_counter() - start
        rebuilt = tokenizer.decode(codes).cpu()
        uses += torch.bincount(codes.flatten().cpu(), minlength=len(uses))
        noise.append(psnr(image[None], rebuilt).item())
        similarity.append(ssim(image[None], rebuilt).item())
    share = uses[uses > 0].double() / uses.sum()
    perplexity = torch.exp(-(share * share.log()).sum()).item()
    unused = int((uses == 0).sum())
    speed = len(noise) / seconds
    return Quality(len(noise), float(np.mean(noise)), float(np.mean(similarity)), perplexity, unused, speed)
