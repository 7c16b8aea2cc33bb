"""Augmentation of the values of embeddings (B, C, H, W) in their places: Emb-Noise and ColorAdapt.

SeiT, https://arxiv.org/abs/2303.11114, section 3.3; SeiT++, https://arxiv.org/abs/2312.10105, section 3.3.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias, cast

import torch
from torch import Tensor, nn
from typing_extensions import override

from tokenstore.augment.devices import to_device
from tokenstore.augment.embedding import Vectors, token_vectors
from tokenstore.augment.geometry import probability

__all__ = [
    "PUBLISHED_NOISE",
    "ColorAdapt",
    "EmbNoise",
    "Moments",
    "Noise",
    "OneOf",
    "moments",
    "noise_strength",
]

Noise: TypeAlias = float | Literal["published"] | None
"""A strength of Emb-Noise as `noise_strength` takes it."""
PUBLISHED_NOISE = 1.0
"""The strength of Emb-Noise in SeiT and SeiT++, for the vectors of their tokenizer."""

Moments = tuple[Tensor, Tensor]
"""The mean and unbiased standard deviation over the grid, each (B, C)."""

_EPSILON = 1e-5


class EmbNoise(nn.Module):
    """Normal noise on `share` of the samples: a draw for each channel of a sample plus one for each element.

    Both have the standard deviation `strength`; `noise_strength` derives it from a codebook. Raises
    ValueError for a strength below 0, and a share that is not from 0 to 1.
    """

    def __init__(self, strength: float, share: float = 0.5) -> None:
        super().__init__()
        if not 0 <= strength < math.inf:
            raise ValueError(f"strength: expected a number from 0, found {strength}")
        self.strength, self.share = strength, probability("share", share)

    def forward(self, embeddings: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return the embeddings (B, C, H, W), some with noise. Raises ValueError for another shape."""
        device, dtype = generator.device, embeddings.dtype
        changed = _drawn_samples(embeddings, self.share, generator)
        noise = torch.randn(embeddings.shape, generator=generator, device=device, dtype=dtype)
        noise = noise + torch.randn(
            (*embeddings.shape[:2], 1, 1), generator=generator, device=device, dtype=dtype
        )
        noise = to_device(noise, embeddings.device)
        return torch.where(changed, embeddings + self.strength * noise, embeddings)

    @override
    def extra_repr(self) -> str:
        return f"strength={self.strength:.4g}, share={self.share}"


class ColorAdapt(nn.Module):
    """The change of each channel's mean and standard deviation to those of a partner (AdaIN).

    It is made for `share` of the samples.
    The partner of sample i of B is sample B - 1 - i. With a `bank` of at least one sample, partners are
    drawn from the last `bank` samples that were seen, which works for batches of one. In training mode,
    `forward` puts its samples in the bank. `remember` puts others in; it is the only way in eval mode.
    Raises ValueError for a bank without a number of channels, or a share that is not from 0 to 1.
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
        """Return the embeddings (B, C, H, W), some of them changed. Raises ValueError for another shape."""
        count, device = len(embeddings), embeddings.device
        changed = _drawn_samples(embeddings, self.share, generator)
        own = moments(embeddings)
        if self.bank:
            if self.training:
                self.remember(embeddings)
            filled = self.seen.clamp(max=self.bank)
            chance = torch.rand(count, generator=generator, device=generator.device)
            partner = (to_device(chance, device) * filled).long().minimum(filled - 1)
            target = self.means[partner].to(embeddings), self.deviations[partner].to(embeddings)
        else:
            target = own[0].flip(0), own[1].flip(0)
        return torch.where(changed, with_moments(embeddings, own, target), embeddings)

    @override
    def extra_repr(self) -> str:
        return f"share={self.share}" + (f", bank={self.bank}" if self.bank else "")


class OneOf(nn.Module):
    """One of several modules for the whole batch, drawn with probabilities `p`, or none with the rest to 1.

    With a generator on the CPU only the drawn module is called. Elsewhere all modules are called, and one
    result is used. Raises ValueError for probabilities that are negative, too many or few, or above 1 in all.
    """

    def __init__(self, choices: list[nn.Module], p: list[float]) -> None:
        super().__init__()
        if len(choices) != len(p) or min(p, default=0) < 0 or sum(p) > 1 + 1e-9:
            raise ValueError(f"p: expected {len(choices)} probabilities with a sum up to 1, found {p}")
        self.choices = nn.ModuleList(choices)
        self.p = list(p)

    def forward(self, embeddings: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return the embeddings as the drawn module changes them, or as they are."""
        chance = torch.rand((), generator=generator, device=generator.device)
        result, low = embeddings, 0.0
        for choice, p in zip(self.choices, self.p, strict=True):
            is_drawn = (chance >= low) & (chance < low + p)
            low += p
            if is_drawn.device.type == "cpu":
                if is_drawn:
                    return cast(Tensor, choice(embeddings, generator=generator))
                continue
            # subtle: all results are computed and one is used, since a branch would wait for the device
            is_drawn = to_device(is_drawn, embeddings.device)
            result = torch.where(is_drawn, choice(embeddings, generator=generator), result)
        return result

    @override
    def extra_repr(self) -> str:
        return f"p={self.p}"


def noise_strength(codebook: Vectors, noise: Noise = None) -> float:
    """Return the strength of Emb-Noise for a codebook (K, C): by default its numbers' standard deviation.

    For tokens of other kinds `codebook` is their `TokenVectors`. `noise` is a strength, or "published", which
    is 1.0. Noise as strong as the vectors' numbers differ leaves a vector recognisable, whatever the
    tokenizer; the published one drowns vectors of length 1. Raises ValueError for a strength below 0 or
    another name.
    """
    if noise is None:
        return token_vectors(codebook).deviation
    strength = PUBLISHED_NOISE if noise == "published" else noise
    if isinstance(strength, str) or not 0 <= strength < math.inf:
        raise ValueError(f"noise: expected a number from 0, or 'published', found {noise!r}")
    return float(strength)


def moments(embeddings: Tensor) -> Moments:
    """Return mean and unbiased standard deviation (B, C) of embeddings (B, C, *grid) over the grid."""
    deviation, mean = torch.std_mean(embeddings.flatten(2), 2)
    return mean, deviation


def with_moments(embeddings: Tensor, own: Moments, target: Moments) -> Tensor:
    """Return embeddings (B, C, H, W) whose moments `own` are changed to the `target` ones."""
    scale = target[1] / own[1].clamp(min=_EPSILON)
    return (embeddings - own[0][..., None, None]) * scale[..., None, None] + target[0][..., None, None]


def _drawn_samples(embeddings: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Draw the samples to change as a mask (B, 1, 1, 1) bool: floor(share * B) of them.

    A single sample is changed with probability `share`.
    """
    if embeddings.ndim != 4:
        raise ValueError(f"expected embeddings (B, C, H, W), found shape {tuple(embeddings.shape)}")
    chance = torch.rand(len(embeddings), generator=generator, device=generator.device)
    if len(embeddings) == 1:
        drawn = chance < share
    else:
        drawn = chance.argsort().argsort() < int(share * len(embeddings))
    return to_device(drawn[:, None, None, None], embeddings.device)
