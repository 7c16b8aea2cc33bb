"""CutMix and Mixup of a batch with itself turned round, and the soft targets they need.

Yun et al. 2019, https://arxiv.org/abs/1905.04899; Zhang et al. 2018, https://arxiv.org/abs/1710.09412.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokenstore.augment.devices import moved
from tokenstore.augment.geometry import probability

__all__ = ["CutMix", "CutMixOrMixup", "Mixup", "soft_targets"]


def soft_targets(labels: Tensor, classes: int, smoothing: float = 0.0) -> Tensor:
    """Labels (B,) as probabilities (B, classes) float32: 1 - smoothing more for the label than for others."""
    hot = F.one_hot(labels.long(), classes).float()
    return hot * (1 - smoothing) + smoothing / classes


class Mixup(nn.Module):
    """Samples (B, ...) and targets (B, classes), each blended with those of sample B - 1 - i.

    One share for the batch, drawn from Beta(alpha, alpha).
    """

    def __init__(self, alpha: float = 0.8) -> None:
        super().__init__()
        self.alpha = _positive("alpha", alpha)

    def forward(
        self, samples: Tensor, targets: Tensor, *, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        share = moved(beta(self.alpha, generator), samples.device).to(samples.dtype)
        return _blended(samples, share), _blended(targets, share.to(targets.dtype))

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}"


class CutMix(nn.Module):
    """Samples (B, ..., H, W), a box of each taken from sample B - 1 - i; targets (B, classes) by its area.

    One box for the batch: its area's share is drawn from Beta(alpha, alpha), its centre lies anywhere, and
    what of it lies outside is cut off.
    """

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        self.alpha = _positive("alpha", alpha)

    def forward(
        self, samples: Tensor, targets: Tensor, *, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        rows, columns = samples.shape[-2:]
        device = samples.device
        side = (1 - beta(self.alpha, generator)).sqrt()
        place = torch.rand(2, generator=generator, device=generator.device)
        side, place = moved(side, device), moved(place, device)
        inside_rows = _between(place[0], side, rows)
        inside_columns = _between(place[1], side, columns)
        inside = inside_rows[:, None] & inside_columns
        kept = 1 - inside.float().mean()
        mixed = torch.where(inside, samples.flip(0), samples)
        return mixed, _blended(targets, kept.to(targets.dtype))

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}"


class CutMixOrMixup(nn.Module):
    """For each batch CutMix with probability `switch`, else Mixup."""

    def __init__(self, cutmix: CutMix, mixup: Mixup, switch: float = 0.5) -> None:
        super().__init__()
        self.cutmix, self.mixup = cutmix, mixup
        self.switch = probability("switch", switch)

    def forward(
        self, samples: Tensor, targets: Tensor, *, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        chance = torch.rand((), generator=generator, device=generator.device)
        cut = chance < self.switch
        if cut.device.type == "cpu":
            chosen = self.cutmix if cut else self.mixup
            return cast(tuple[Tensor, Tensor], chosen(samples, targets, generator=generator))
        # subtle: both are computed, since to branch would wait for the device
        cut = moved(cut, samples.device)
        pairs = zip(
            self.cutmix(samples, targets, generator=generator),
            self.mixup(samples, targets, generator=generator),
            strict=True,
        )
        mixed, blended = (torch.where(cut, one, other) for one, other in pairs)
        return mixed, blended

    def extra_repr(self) -> str:
        return f"switch={self.switch}"


def beta(alpha: float, generator: torch.Generator) -> Tensor:
    """A draw () float32 from Beta(alpha, alpha), on the generator's device and from it alone."""
    gammas = torch._standard_gamma(torch.full((2,), alpha, device=generator.device), generator=generator)
    return gammas[0] / gammas.sum()


def _blended(values: Tensor, share: Tensor) -> Tensor:
    return share * values + (1 - share) * values.flip(0)


def _between(place: Tensor, side: Tensor, length: int) -> Tensor:
    """Which of `length` positions lie in a stretch of `side` about `place`, both shares: (length,) bool."""
    half = torch.floor(side * length) / 2
    centre = torch.floor(place * length)
    position = torch.arange(length, device=place.device)
    return (position >= (centre - half).floor()) & (position < (centre + half).floor())


def _positive(name: str, value: float) -> float:
    if not value > 0:
        raise ValueError(f"{name}: expected a positive number, found {value}")
    return value
