"""The losses of a tokenizer's training."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["assignment_entropy", "gradient_loss", "pixel_loss", "rotate"]

GRADIENT_SCALES = (1, 2, 4)
"""The factors that images are made smaller by for `gradient_loss`."""


def pixel_loss(error: Tensor) -> Tensor:
    """Return the mean over a batch of the logarithm of each image's squared error: PSNR, up to a factor.

    With that factor the gradient equals the gradient of the squared error at 20 dB. The logarithm gives
    smooth images the weight of detailed ones, which raises the use of codes (docs/log.md).
    """
    twenty_db = 4 / 10**2  # squared error for pixels in -1..1
    return twenty_db * (error.square().mean((1, 2, 3)) + 1e-4).log().mean()


def gradient_loss(error: Tensor) -> Tensor:
    """Return the mean absolute difference of neighbouring pixels of errors (B, 3, H, W), over three scales.

    The differences are those of the gradients of two images: edges that are blurred cost more than a shift of
    brightness.
    """
    total = error.new_zeros(())
    for scale in GRADIENT_SCALES:
        small = F.avg_pool2d(error, scale) if scale > 1 else error
        total = total + small.diff(dim=2).abs().mean() + small.diff(dim=3).abs().mean()
    return total / (2 * len(GRADIENT_SCALES))


def rotate(latents: Tensor, embeddings: Tensor) -> Tensor:
    """Return the embeddings, with gradients carried to the latents by the rotation between the two.

    Both are unit vectors (B, D, h, w). Source: Fifty et al. 2024, https://arxiv.org/abs/2410.06424, equation
    4.
    """
    start, end = latents.detach(), embeddings.detach()
    middle = F.normalize(start + end, dim=1)
    along_middle = (middle * latents).sum(1, keepdim=True)
    along_start = (start * latents).sum(1, keepdim=True)
    return latents - 2 * along_middle * middle + 2 * along_start * end


def assignment_entropy(latents: Tensor, codebook: Tensor, temperature: float) -> Tensor:
    """Return the entropy in nats of the mean soft assignment of latents (B, D, h, w) to a codebook (K, D)."""
    similarity = torch.einsum("bdhw,kd->bhwk", latents, codebook)
    share = (similarity.float() / temperature).softmax(-1).mean((0, 1, 2))
    entropy: Tensor = torch.special.entr(share).sum()
    return entropy
