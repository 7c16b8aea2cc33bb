"""The masks of a masked-token model: the patches it sees and those it predicts, functions of a generator.

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
    """The distribution of the masked share: normal, cut to [low, high].

    The encoder does not see a share `low` of the patches. Raises ValueError unless 0 < low <= high <= 1 and
    the deviation is positive.
    """

    mean: float = 0.45
    deviation: float = 0.25
    low: float = 0.4
    high: float = 1.0

    def __post_init__(self) -> None:
        if not (0 < self.low <= self.high <= 1 and self.deviation > 0):
            raise ValueError(f"expected 0 < low <= high <= 1 and a positive deviation, found {self}")


@dataclass(frozen=True)
class PatchMask:
    """The patches that the encoder sees, and those that are predicted, among the N patches of B samples.

    A masked patch that is visible enters the encoder as a learned vector.
    """

    visible: Tensor
    """The positions of the patches that the encoder sees, (B, N - dropped) int64, in a random order."""
    masked: Tensor
    """The positions of the patches that are predicted, (B, M) int64, among them all that are not visible."""

    def to(self, device: torch.device) -> PatchMask:
        """Return the mask on a device."""
        return PatchMask(
            self.visible.to(device, non_blocking=device.type != "cpu"),
            self.masked.to(device, non_blocking=device.type != "cpu"),
        )


def draw_ratio(distribution: MaskRatio, generator: torch.Generator) -> float:
    """Draw a masked share by the inverse of the cut distribution; waits for the generator's device."""
    normal: Any = torch.distributions.Normal(0.0, 1.0)
    bounds = torch.tensor([distribution.low, distribution.high], dtype=torch.float64)
    low, high = normal.cdf((bounds - distribution.mean) / distribution.deviation).tolist()
    chance = torch.rand((), generator=generator, device=generator.device, dtype=torch.float64).cpu()
    drawn = normal.icdf(low + (high - low) * chance) * distribution.deviation + distribution.mean
    return min(max(float(drawn), distribution.low), distribution.high)


def draw_mask(
    batch: int, patches: int, ratio: float, dropped: float, generator: torch.Generator
) -> PatchMask:
    """Draw a mask of `batch` samples of `patches` patches, on the generator's device.

    In each sample ceil(ratio * patches) patches are masked, and the encoder does not see ceil(dropped *
    patches) of them. Raises ValueError unless 0 < dropped <= ratio <= 1.
    """
    if not 0 < dropped <= ratio <= 1:
        raise ValueError(f"expected 0 < dropped <= ratio <= 1, found {dropped} and {ratio}")
    order = torch.rand((batch, patches), generator=generator, device=generator.device).argsort(1)
    unseen, masked = (math.ceil(patches * share) for share in (dropped, ratio))
    return PatchMask(visible=order[:, unseen:], masked=order[:, :masked])
