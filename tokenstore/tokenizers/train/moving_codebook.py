"""A codebook that follows the encoder's vectors while it trains, and loses no code."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

KMEANS_ROUNDS = 5
LATENTS_PER_CODE = 64
"""Latents that first entries are looked for among."""
BLOCK_NUMBERS = 2**25
"""Similarities that are held at once."""


class MovingCodebook:
    """Moving averages of the latents assigned to each code, from which a codebook is renewed in place.

    Van den Oord et al. 2017, https://arxiv.org/abs/1711.00937, appendix A.1; all vectors are of length one.
    A code used less than `restart_share` of the mean use starts again from a vector of the batch.
    """

    def __init__(self, codebook: Tensor, decay: float, restart_share: float) -> None:
        self.codebook, self.decay, self.restart_share = codebook, decay, restart_share
        self.sums = codebook.clone()
        self.counts = torch.ones(len(codebook), device=codebook.device)

    def start_from(self, rows: Tensor, generator: torch.Generator) -> None:
        """Choose first entries from latents (N, D) as k-means++ does, then run a few rounds of k-means."""
        thinned = torch.randperm(len(rows), generator=generator)[: LATENTS_PER_CODE * len(self.codebook)]
        rows = rows[thinned.to(rows.device)]
        block = max(1, BLOCK_NUMBERS // len(self.codebook))
        first = torch.randint(len(rows), (1,), generator=generator).to(rows.device)
        chosen = [rows[first]]
        distance = 1 - (rows @ chosen[0].T)[:, 0]
        for _ in range(len(self.codebook) - 1):
            weights = distance.clamp_min(1e-9).cpu()  # subtle: the generator is one of the CPU
            pick = torch.multinomial(weights, 1, generator=generator).to(rows.device)
            chosen.append(rows[pick])
            distance = torch.minimum(distance, 1 - (rows @ rows[pick].T)[:, 0])
        codebook = torch.cat(chosen)
        for _ in range(KMEANS_ROUNDS):
            codes = torch.cat([(part @ codebook.T).argmax(1) for part in torch.split(rows, block)])
            sums = torch.zeros_like(codebook).index_add_(0, codes, rows)
            codebook = torch.where(sums.any(1, keepdim=True), F.normalize(sums, dim=1), codebook)
        self.codebook.copy_(codebook)
        self.sums.copy_(codebook)
        self.counts.fill_(1.0)

    def update(self, rows: Tensor, codes: Tensor, generator: torch.Generator, *, restart: bool) -> None:
        """Move towards latents (N, D) with their codes (N,)."""
        size = len(self.codebook)
        per_code = size / len(rows)  # so that counts are about 1 whatever the batch
        self.counts.lerp_(torch.bincount(codes, minlength=size).float() * per_code, 1 - self.decay)
        self.sums.lerp_(torch.zeros_like(self.sums).index_add_(0, codes, rows) * per_code, 1 - self.decay)
        if restart:
            dead = (self.counts < self.restart_share).nonzero()[:, 0]
            fresh = torch.randint(len(rows), (len(dead),), generator=generator).to(rows.device)
            self.sums[dead], self.counts[dead] = rows[fresh], 1.0
        self.codebook.copy_(F.normalize(self.sums, dim=1))
