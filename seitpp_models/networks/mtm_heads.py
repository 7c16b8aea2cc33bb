"""The end of a masked-token model: heads that predict tokens, and the loss of what they predict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seitpp_models.networks.code_loss import CodeLoss, code_logits, code_loss

__all__ = ["MaskedTokenOutput", "NumberHead", "TokenHead"]


@dataclass(frozen=True)
class MaskedTokenOutput:
    """The result of a masked-token model for a batch."""

    loss: Tensor
    """The mean cross-entropy of a token of the masked patches in nats, () float32, with label smoothing.

    Of several codebooks it is the mean over them; of numbers, the mean of the squared errors.
    """
    plain_loss: Tensor
    """The loss () without label smoothing, and without a gradient."""
    right: Tensor
    """The share () of codes that are predicted right; of numbers, of their square that is."""
    targets: Tensor
    """The codes of the masked patches, (B, M, T) int64, or (B, M, T, n); or the numbers (B, M, T, C)."""
    predict: Callable[[], Tensor]
    """The function that returns the `logits`, which the loss itself never has all in memory."""

    @property
    def logits(self) -> Tensor:
        """The logits (B, M, T, K) of the T = patch * patch tokens of each of M masked patches, row by row.

        K counts the codes of all codebooks, one after another. Numbers are predicted as (B, M, T, C). They
        are computed each time that they are asked for.
        """
        return self.predict()


class TokenHead(nn.Module):
    """The head from features of patches (B, M, width) to the loss of their T = patch * patch tokens.

    Each of n codebooks has channels of its own, and the bias counts the codes of all.
    """

    def __init__(self, codebook_sizes: Sequence[int], channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.channels = channels
        self.codebook_sizes = list(codebook_sizes)
        codebooks = len(self.codebook_sizes)
        self.bias = nn.Parameter(torch.zeros(1, 1, sum(codebook_sizes)))
        self.fc = nn.Linear(width, patch * patch * channels * codebooks)
        self.ln = nn.LayerNorm(channels)

    def forward(
        self, features: Tensor, targets: Tensor, tables: Sequence[Tensor], label_smoothing: float = 0.0
    ) -> MaskedTokenOutput:
        """Return the loss for targets (B, M, T), or (B, M, T, n), by the codes' vectors in the `tables`.

        The tables are (K, C), one of each codebook, and get no gradient.
        """
        grouped = self.fc(features).unflatten(-1, (-1, len(tables), self.channels))
        vectors = [self.ln(F.gelu(part)) for part in grouped.unbind(-2)]
        planes = targets.unbind(-1) if len(tables) > 1 else [targets]
        biases = torch.split(self.bias.flatten(), self.codebook_sizes)
        parts = [
            code_loss(each.flatten(0, 2), table, bias, plane.flatten(), label_smoothing)
            for each, table, bias, plane in zip(vectors, tables, biases, planes, strict=True)
        ]
        means = CodeLoss(*(torch.stack(each).mean() for each in zip(*parts, strict=True)))
        return MaskedTokenOutput(*means, targets, partial(_logits, vectors, tables, biases))


def _logits(vectors: Sequence[Tensor], tables: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    logits = [
        code_logits(each, table.detach(), bias)
        for each, table, bias in zip(vectors, tables, biases, strict=True)
    ]
    return torch.cat(logits, -1)


class NumberHead(nn.Module):
    """The head from features of patches (B, M, width) to the loss of their tokens' numbers."""

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.channels = channels
        self.fc = nn.Linear(width, patch * patch * channels)

    def forward(self, features: Tensor, targets: Tensor) -> MaskedTokenOutput:
        """Return the loss for the targets (B, M, T, C)."""
        predicted = self.fc(features).unflatten(-1, (-1, self.channels))
        loss = F.mse_loss(predicted.float(), targets)
        plain = loss.detach()
        right = 1 - plain / targets.square().mean()
        return MaskedTokenOutput(loss, plain, right, targets, lambda: predicted)
