"""Augmentation that changes embeddings (B, C, H, W) but moves nothing: Emb-Noise and ColorAdapt.

SeiT, https://arxiv.org/abs/2303.11114, section 3.3; SeiT++, https://arxiv.org/abs/2312.10105, section 3.3.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from tokenstore.augment.devices import moved
from tokenstore.augment.geometry import probability

__all__ = ["ColorAdapt", "EmbNoise", "Moments", "OneOf", "moments"]

Moments = tuple[Tensor, Tensor]
"""Mean and unbiased standard deviation over the grid, each (B, C)."""

_EPSILON = 1e-5


class EmbNoise(nn.Module):
    """Normal noise, one number for a sample's channel and one for each element, on `share` of the samples."""

    def __init__(self, strength: float = 1.0, share: float = 0.5) -> None:
        super().__init__()
        self.strength, self.share = strength, probability("share", share)

    def forward(self, embeddings: Tensor, *, generator: torch.Generator) -> Tensor:
        device, dtype = generator.device, embeddings.dtype
        changed = _some(embeddings, self.share, generator)
        noise = torch.randn(embeddings.shape, generator=generator, device=device, dtype=dtype)
        noise = noise + torch.randn(
            (*embeddings.shape[:2], 1, 1), generator=generator, device=device, dtype=dtype
        )
        noise = moved(noise, embeddings.device)
        return torch.where(changed, embeddings + self.strength * noise, embeddings)

    def extra_repr(self) -> str:
        return f"strength={self.strength}, share={self.share}"


class ColorAdapt(nn.Module):
    """Mean and standard deviation of each channel become a partner's, for `share` of the samples (AdaIN).

    The partner of sample i of B is sample B - 1 - i. With a `bank` of at least one sample, partners are
    drawn from the last `bank` samples that were seen, which works for batches of one. `remember` fills it
    with samples that are not otherwise seen; in eval mode nothing else does.
    """

    means: Tensor
    deviations: Tensor
    seen: Tensor

    def __init__(self, share: float = 0.5, bank: int = 0, channels: int = 0) -> None:
        super().__init__()
        if bank and channels < 1:
            raise ValueError("channels: expected the number of channels beside a bank, found none")
        self.share, self.bank = probability("share", share), bank
        self.register_buffer("means", torch.zeros(bank, channels))
        self.register_buffer("deviations", torch.ones(bank, channels))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def remember(self, embeddings: Tensor) -> None:
        """Put the moments of samples (B, C, H, W) in the bank, in place of the oldest."""
        mean, deviation = moments(embeddings)
        mean, deviation = mean[-self.bank :].to(self.means), deviation[-self.bank :].to(self.deviations)
        places = (self.seen + torch.arange(len(mean), device=self.seen.device)) % self.bank
        self.means[places], self.deviations[places] = mean, deviation
        self.seen += len(mean)

    def forward(self, embeddings: Tensor, *, generator: torch.Generator) -> Tensor:
        count, device = len(embeddings), embeddings.device
        changed = _some(embeddings, self.share, generator)
        own = moments(embeddings)
        if self.bank:
            if self.training:
                self.remember(embeddings)
            filled = self.seen.clamp(max=self.bank)
            chance = torch.rand(count, generator=generator, device=generator.device)
            partner = (moved(chance, device) * filled).long().minimum(filled - 1)
            wanted = self.means[partner].to(embeddings), self.deviations[partner].to(embeddings)
        else:
            wanted = own[0].flip(0), own[1].flip(0)
        return torch.where(changed, with_moments(embeddings, own, wanted), embeddings)

    def extra_repr(self) -> str:
        return f"share={self.share}" + (f", bank={self.bank}" if self.bank else "")


class OneOf(nn.Module):
    """One of some modules for the whole batch, drawn with probabilities `p`; none with what is left of 1.

    With a generator on the CPU the others are not called; else all are, and their results are dropped.
    """

    def __init__(self, choices: list[nn.Module], p: list[float]) -> None:
        super().__init__()
        if len(choices) != len(p) or min(p, default=0) < 0 or sum(p) > 1 + 1e-9:
            raise ValueError(f"p: expected {len(choices)} probabilities with a sum up to 1, found {p}")
        self.choices = nn.ModuleList(choices)
        self.p = list(p)

    def forward(self, embeddings: Tensor, *, generator: torch.Generator) -> Tensor:
        chance = torch.rand((), generator=generator, device=generator.device)
        result, low = embeddings, 0.0
        for choice, p in zip(self.choices, self.p, strict=True):
            picked = (chance >= low) & (chance < low + p)
            low += p
            if picked.device.type == "cpu":
                if picked:
                    return cast(Tensor, choice(embeddings, generator=generator))
                continue
            # subtle: all are computed and one is taken, since to branch would wait for the device
            picked = moved(picked, embeddings.device)
            result = torch.where(picked, choice(embeddings, generator=generator), result)
        return result

    def extra_repr(self) -> str:
        return f"p={self.p}"


def moments(embeddings: Tensor) -> Moments:
    """Mean and unbiased standard deviation (B, C) of embeddings (B, C, *grid) over the grid."""
    deviation, mean = torch.std_mean(embeddings.flatten(2), 2)
    return mean, deviation


def with_moments(embeddings: Tensor, own: Moments, wanted: Moments) -> Tensor:
    """Embeddings (B, C, H, W) of `own` moments, brought to the `wanted` ones."""
    scale = wanted[1] / own[1].clamp(min=_EPSILON)
    return (embeddings - own[0][..., None, None]) * scale[..., None, None] + wanted[0][..., None, None]


def _some(embeddings: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Which samples are changed, (B, 1, 1, 1) bool: floor(share * B) of them; of one it is the chance."""
    if embeddings.ndim != 4:
        raise ValueError(f"expected embeddings (B, C, H, W), found shape {tuple(embeddings.shape)}")
    chance = torch.rand(len(embeddings), generator=generator, device=generator.device)
    if len(embeddings) == 1:
        chosen = chance < share
    else:
        chosen = chance.argsort().argsort() < int(share * len(embeddings))
    return moved(chosen[:, None, None, None], embeddings.device)
