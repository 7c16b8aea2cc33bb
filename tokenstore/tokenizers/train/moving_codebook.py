"""The codebook that follows the encoder's vectors while it trains, and loses no code."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenstore.tokenizers.train.kmeans import spherical_kmeans

__all__ = ["MovingCodebook"]


class MovingCodebook:
    """The moving averages of the latents assigned to each code, from which a codebook is updated in place.

    The method is that of van den Oord et al. 2017, https://arxiv.org/abs/1711.00937, appendix A.1; all
    vectors are of length one. A code used less than `restart_share` of the mean use starts again from a
    vector of the batch.
    """

    def __init__(self, codebook: Tensor, decay: float, restart_share: float) -> None:
        self.codebook, self.decay, self.restart_share = codebook, decay, restart_share
        self.sums = codebook.clone()
        self.counts = torch.ones(len(codebook), device=codebook.device)

    def start_from(self, rows: Tensor, generator: torch.Generator) -> None:
        """Replace the codebook by one of spherical k-means over latents (N, D)."""
        codebook = spherical_kmeans(rows, len(self.codebook), generator)
        self.codebook.copy_(codebook)
        self.sums.copy_(codebook)
        self.counts.fill_(1.0)

    def update(self, rows: Tensor, codes: Tensor, generator: torch.Generator, *, restart: bool) -> None:
        """Move the codebook towards latents (N, D) with their codes (N,); `restart` unused codes."""
        size = len(self.codebook)
        per_code = size / len(rows)  # so that counts are about 1 whatever the batch
        self.counts.lerp_(torch.bincount(codes, minlength=size).float() * per_code, 1 - self.decay)
        self.sums.lerp_(torch.zeros_like(self.sums).index_add_(0, codes, rows) * per_code, 1 - self.decay)
        if restart:
            dead = (self.counts < self.restart_share).nonzero()[:, 0]
            fresh = torch.randint(len(rows), (len(dead),), generator=generator).to(rows.device)
            self.sums[dead], self.counts[dead] = rows[fresh], 1.0
        self.codebook.copy_(F.normalize(self.sums, dim=1))
