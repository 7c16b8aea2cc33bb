"""Sums over batches and processes, of which figures are made.

torchmetrics has the same figures. Importing it takes longer than importing torch, which a run of a minute and
every test process would pay for, and its mean loses the weights unless it looks for NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed

__all__ = ["Mean", "confusions", "over_processes"]


class Mean:
    """A weighted mean over all batches, and over all processes of torch.distributed."""

    def __init__(self) -> None:
        self._total: Tensor | None = None
        self._weight: Tensor | None = None

    def add(self, total: Tensor, weight: Tensor | int) -> None:
        """Add a sum () of weighted values, and the sum of their weights, an integer.

        Integers add up without an error, as counts have to.
        """
        weight = torch.as_tensor(weight, dtype=torch.int64, device=total.device)
        self._total = total if self._total is None else self._total + total
        self._weight = weight if self._weight is None else self._weight + weight

    def compute(self) -> float:
        """Return the mean; raises RuntimeError if nothing was added."""
        if self._total is None or self._weight is None:
            raise RuntimeError("expected something to take the mean of, found nothing")
        return float(over_processes(self._total) / over_processes(self._weight))


def confusions(labels: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """Return the table (true, predicted) int64 of labels (n,) and predictions (n,), both below `classes`."""
    return torch.bincount(labels * classes + predicted, minlength=classes**2).view(classes, classes)


def over_processes(total: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes of torch.distributed, or of this one alone."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return total
    total = total.clone()
    distributed.all_reduce(total)
    return total
