"""Which patches a masked-token model sees, and which it must predict: pure functions of a generator.

SeiT++, https://arxiv.org/abs/2312.10105, section 3.1; the ratio as in MAGE, https://arxiv.org/abs/2211.09117.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["MaskRatio", "PatchMask", "draw_mask", "draw_ratio"]


@dataclass(frozen=True)
class MaskRatio:
    """A normal distribution cut to [low, high]; `low` of the patches are dropped from the encoder."""

    mean: float = 0.45
    deviation: float = 0.25
    low: float = 0.4
    high: float = 1.0

    def __post_init__(self) -> None:
        if not (0 < self.low <= self.high <= 1 and self.deviation > 0):
            raise ValueError(f"expected 0 < low <= high <= 1 and a positive deviation, found {self}")


@dataclass(frozen=True)
class PatchMask:
    """Of N patches of each of B samples: `masked` ones are predicted, those that are not `kept` are not seen.

    A masked patch that is kept enters the encoder as a learned vector.
    """

    kept: Tensor
    """(B, N - dropped) int64: the places of patches the encoder sees, in a random order."""
    masked: Tensor
    """(B, M) int64: the places that are predicted; all that are not kept are among them."""

    def to(self, device: torch.device) -> PatchMask:
        """The same on a device."""
        return PatchMask(
            self.kept.to(device, non_blocking=device.type != "cpu"),
            self.masked.to(device, non_blocking=device.type != "cpu"),
        )


def draw_ratio(distribution: MaskRatio, generator: torch.Generator) -> float:
    """A share of the patches, by the inverse of the cut distribution; it waits for the generator's device."""
    normal: Any = torch.distributions.Normal(0.0, 1.0)
    bounds = torch.tensor([distribution.low, distribution.high], dtype=torch.float64)
    low, high = normal.cdf((bounds - distribution.mean) / distribution.deviation).tolist()
    chance = torch.rand((), generator=generator, device=generator.device, dtype=torch.float64).cpu()
    drawn = normal.icdf(low + (high - low) * chance) * distribution.deviation + distribution.mean
    return min(max(float(drawn), distribution.low), distribution.high)


def draw_mask(
    batch: int, patches: int, ratio: float, dropped: float, generator: torch.Generator
) -> PatchMask:
    """Of `patches` patches ceil(ratio * patches) are masked and ceil(dropped * patches) of these not seen.

    Each sample has an order of its own. On the generator's device. Raises ValueError unless
    0 < dropped <= ratio <= 1.
    """
    if not 0 < dropped <= ratio <= 1:
        raise ValueError(f"expected 0 < dropped <= ratio <= 1, found {dropped} and {ratio}")
    order = torch.rand((batch, patches), generator=generator, device=generator.device).argsort(1)
    unseen, masked = (math.ceil(patches * share) for share in (dropped, ratio))
    return PatchMask(kept=order[:, unseen:], masked=order[:, :masked])
