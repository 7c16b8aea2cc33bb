"""The quantiser over an implicit codebook: each channel of a latent is rounded to one of its levels.

Look-up free (Yu et al. 2023, https://arxiv.org/abs/2310.05737), binary spherical (Zhao et al. 2024,
https://arxiv.org/abs/2406.07548) and finite scalar quantisation (Mentzer et al. 2023,
https://arxiv.org/abs/2309.15505). No table is searched or stored: `tokenstore.format.ImplicitCodebook` is the
rule that vectors follow from.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tokenstore.format import IMPLICIT_KINDS, ImplicitCodebook

__all__ = ["ImplicitQuantiser"]

_MARGIN = 1e-3
"""The part by which the bounds of finite scalars lie beyond their outer levels (the paper's code)."""


class ImplicitQuantiser(nn.Module):
    """Latents (B, D, h, w) to codes (B, h, w) int64 and vectors (B, D, h, w), as an ImplicitCodebook says.

    The signs of a latent are its levels (`lfq`, `bsq`: one of exactly 0 counts as negative), or a tanh bounds
    and a rounding takes it to a level (`fsq`). It has no weights.
    """

    def __init__(self, implicit: ImplicitCodebook) -> None:
        super().__init__()
        self.implicit = implicit

    @property
    def dimensions(self) -> int:
        """The channels of a latent, D."""
        return len(self.implicit.levels)

    def digits(self, latents: Tensor) -> Tensor:
        """Return the level (B, D, h, w) int64 of each channel of latents."""
        if self.implicit.kind != "fsq":
            return (latents > 0).long()
        channels = [
            _finite_scalar(latents[:, channel], levels) for channel, levels in enumerate(self.implicit.levels)
        ]
        return torch.stack(channels, dim=1)

    def codes(self, latents: Tensor) -> Tensor:
        """Return codes (B, h, w) of latents."""
        digits, codes, radix = self.digits(latents), torch.zeros_like(latents[:, 0], dtype=torch.int64), 1
        for channel, levels in enumerate(self.implicit.levels):
            codes += radix * digits[:, channel]
            radix *= levels
        return codes

    def vectors(self, codes: Tensor) -> Tensor:
        """Return the vectors float32 of codes, all in range."""
        rest, channels = codes, []
        for levels in self.implicit.levels:
            values = IMPLICIT_KINDS[self.implicit.kind](levels, self.dimensions)
            channels.append(torch.from_numpy(values).to(codes.device, torch.float32)[rest % levels])
            rest = rest // levels
        return torch.stack(channels, dim=1)


def _finite_scalar(latents: Tensor, levels: int) -> Tensor:
    """Return the levels int64 of latents of one channel."""
    half = (levels - 1) * (1 + _MARGIN) / 2
    offset = 0.0 if levels % 2 else 0.5
    bounded = torch.tanh(latents + math.atanh(offset / half)) * half - offset
    return bounded.round().long() + levels // 2
