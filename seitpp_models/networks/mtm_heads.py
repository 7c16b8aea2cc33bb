"""The end of a masked-token model: heads that predict tokens, and the loss of what they predict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["MaskedTokenOutput", "NumberHead", "TokenHead", "cross_entropy"]


@dataclass(frozen=True)
class MaskedTokenOutput:
    """The result of a masked-token model for a batch."""

    loss: Tensor
    """The mean cross-entropy of a token of the masked patches in nats, () float32.

    Of several codebooks it is the mean over them; of numbers, the mean of the squared errors.
    """
    logits: Tensor
    """The logits (B, M, T, K) of the T = patch * patch tokens of each of the M masked patches, row by row.

    K counts the codes of all codebooks, one after another. Numbers are predicted as (B, M, T, C).
    """
    targets: Tensor
    """The codes of the masked patches, (B, M, T) int64, or (B, M, T, n); or the numbers (B, M, T, C)."""
    codebook_sizes: tuple[int, ...]
    """The number of codes of each codebook; empty for numbers."""

    def planes(self) -> list[tuple[Tensor, Tensor]]:
        """Return the logits (B, M, T, K) and the targets (B, M, T) of each codebook; none of numbers."""
        if len(self.codebook_sizes) < 2:
            return [(self.logits, self.targets)] if self.codebook_sizes else []
        parts = torch.split(self.logits, list(self.codebook_sizes), -1)
        return list(zip(parts, self.targets.unbind(-1), strict=True))

    def plain_loss(self) -> Tensor:
        """Return the loss () without label smoothing."""
        planes = self.planes()
        return cross_entropy(planes) if planes else F.mse_loss(self.logits.float(), self.targets)

    def right(self) -> Tensor:
        """Return the share () of codes that are predicted right; of numbers, of their square that is."""
        planes = self.planes()
        if not planes:
            return 1 - F.mse_loss(self.logits.detach().float(), self.targets) / self.targets.square().mean()
        shares = [(logits.detach().argmax(-1) == targets).float().mean() for logits, targets in planes]
        return shares[0] if len(shares) == 1 else torch.stack(shares).mean()


def cross_entropy(planes: Sequence[tuple[Tensor, Tensor]], label_smoothing: float = 0.0) -> Tensor:
    """Return the cross-entropy () of logits (B, M, T, K) and targets (B, M, T), the mean over codebooks."""
    losses = [
        F.cross_entropy(logits.flatten(0, 2).float(), targets.flatten(), label_smoothing=label_smoothing)
        for logits, targets in planes
    ]
    return losses[0] if len(losses) == 1 else torch.stack(losses).mean()


class TokenHead(nn.Module):
    """The head from features of patches (..., width) to logits of their tokens (..., patch * patch, K).

    Each of n codebooks has channels of its own, and K is the codes of all.
    """

    def __init__(self, codebook_sizes: Sequence[int], channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.channels = channels
        self.codebooks = len(codebook_sizes)
        self.bias = nn.Parameter(torch.zeros(1, 1, sum(codebook_sizes)))
        self.fc = nn.Linear(width, patch * patch * channels * self.codebooks)
        self.ln = nn.LayerNorm(channels)

    def forward(self, features: Tensor, tables: Sequence[Tensor]) -> Tensor:
        """Return logits by the codes' vectors in the `tables` (K, C), which get no gradient."""
        tokens = self.fc(features).unflatten(-1, (-1, self.codebooks, self.channels)).unbind(-2)
        logits = [
            F.linear(self.ln(F.gelu(part)), table.detach())
            for part, table in zip(tokens, tables, strict=True)
        ]
        return (logits[0] if len(logits) == 1 else torch.cat(logits, -1)) + self.bias


class NumberHead(nn.Module):
    """The head from features of patches (..., width) to their tokens' numbers (..., patch * patch, C)."""

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.channels = channels
        self.fc = nn.Linear(width, patch * patch * channels)

    def forward(self, features: Tensor) -> Tensor:
        """Return the predicted numbers."""
        numbers: Tensor = self.fc(features).unflatten(-1, (-1, self.channels))
        return numbers
