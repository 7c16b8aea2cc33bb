"""CutMix and Mixup of a batch with itself in reverse order, and the soft targets they need.

Yun et al. 2019, https://arxiv.org/abs/1905.04899; Zhang et al. 2018, https://arxiv.org/abs/1710.09412.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from tokenstore.augment.devices import to_device
from tokenstore.augment.geometry import probability

__all__ = ["CutMix", "CutMixOrMixup", "Mixup", "soft_targets"]


def soft_targets(labels: Tensor, classes: int, smoothing: float = 0.0) -> Tensor:
    """Return labels (B,) as probabilities (B, classes) float32; the label has 1 - smoothing more."""
    hot = F.one_hot(labels.long(), classes).float()
    return hot * (1 - smoothing) + smoothing / classes


class Mixup(nn.Module):
    """The blend of each sample (B, ...) and its target (B, classes) with those of sample B - 1 - i.

    The batch has one share, drawn from Beta(alpha, alpha). Raises ValueError for an alpha that is not
    positive.
    """

    def __init__(self, alpha: float = 0.8) -> None:
        super().__init__()
        self.alpha = _positive("alpha", alpha)

    def forward(
        self, samples: Tensor, targets: Tensor, *, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return blended samples and targets."""
        share = to_device(beta(self.alpha, generator), samples.device).to(samples.dtype)
        return _blended(samples, share), _blended(targets, share.to(targets.dtype))

    @override
    def extra_repr(self) -> str:
        return f"alpha={self.alpha}"


class CutMix(nn.Module):
    """The replacement of a box of each sample (B, ..., H, W) by that of sample B - 1 - i.

    Targets (B, classes) are blended by the box's area. The batch has one box: the share of its area is drawn
    from Beta(alpha, alpha), its centre is anywhere, and the part outside the sample is cut off. Raises
    ValueError for an alpha that is not positive.
    """

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        self.alpha = _positive("alpha", alpha)

    def forward(
        self, samples: Tensor, targets: Tensor, *, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return samples with another's box, and blended targets."""
        rows, columns = samples.shape[-2:]
        device = samples.device
        side = (1 - beta(self.alpha, generator)).sqrt()
        place = torch.rand(2, generator=generator, device=generator.device)
        side, place = to_device(side, device), to_device(place, device)
        if rows == 1:  # a list of tokens: a part of it changes, which is as large a share
            inside = _between(place[1], side.square(), columns)[None]
        else:
            inside = _between(place[0], side, rows)[:, None] & _between(place[1], side, columns)
        share = 1 - inside.float().mean()
        mixed = torch.where(inside, samples.flip(0), samples)
        return mixed, _blended(targets, share.to(targets.dtype))

    @override
    def extra_repr(self) -> str:
        return f"alpha={self.alpha}"


class CutMixOrMixup(nn.Module):
    """CutMix with probability `switch` for each batch, else Mixup.

    Raises ValueError for a probability that is not from 0 to 1.
    """

    def __init__(self, cutmix: CutMix, mixup: Mixup, switch: float = 0.5) -> None:
        super().__init__()
        self.cutmix, self.mixup = cutmix, mixup
        self.switch = probability("switch", switch)

    def forward(
        self, samples: Tensor, targets: Tensor, *, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return mixed samples and targets."""
        chance = torch.rand((), generator=generator, device=generator.device)
        cut = chance < self.switch
        if cut.device.type == "cpu":
            drawn = self.cutmix if cut else self.mixup
            return cast(tuple[Tensor, Tensor], drawn(samples, targets, generator=generator))
        # subtle: both results are computed, since a branch would wait for the device
        cut = to_device(cut, samples.device)
        pairs = zip(
            self.cutmix(samples, targets, generator=generator),
            self.mixup(samples, targets, generator=generator),
            strict=True,
        )
        mixed, blended = (torch.where(cut, one, other) for one, other in pairs)
        return mixed, blended

    @override
    def extra_repr(self) -> str:
        return f"switch={self.switch}"


def beta(alpha: float, generator: torch.Generator) -> Tensor:
    """Draw () float32 from Beta(alpha, alpha), on the generator's device and from the generator alone."""
    gammas = torch._standard_gamma(torch.full((2,), alpha, device=generator.device), generator=generator)
    return gammas[0] / gammas.sum()


def _blended(values: Tensor, share: Tensor) -> Tensor:
    return share * values + (1 - share) * values.flip(0)


def _between(place: Tensor, side: Tensor, length: int) -> Tensor:
    """Return a mask (length,) bool of the positions within `side` about `place`, both shares of `length`.

    An odd number of positions is rounded down, as in the published runs.
    """
    half = torch.floor(torch.floor(side * length) / 2)
    centre = torch.floor(place * length)
    position = torch.arange(length, device=place.device)
    return (position >= centre - half) & (position < centre + half)


def _positive(name: str, value: float) -> float:
    if not value > 0:
        raise ValueError(f"{name}: expected a positive number, found {value}")
    return value
