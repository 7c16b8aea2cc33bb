"""The convolutional encoder and decoder of the VQGAN family (Esser et al. 2021, https://arxiv.org/abs/2012.09841).

The modules have the names that they have in checkpoints of taming-transformers. Their blocks are parts of
other published tokenizers too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "GROUPS",
    "MOST_BLOCKS",
    "MOST_CHANNELS",
    "MOST_CODES",
    "MOST_LEVELS",
    "Attention",
    "Decoder",
    "Encoder",
    "Half",
    "ResidualBlock",
    "Shape",
    "group_norm",
    "swish",
]

GROUPS = 32
"""The groups of channels that are normalised together."""
MOST_LEVELS, MOST_BLOCKS, MOST_CHANNELS, MOST_CODES = 8, 16, 1 << 12, 1 << 20
"""No size read from a checkpoint may be larger: a hostile file must not make us build an endless model."""


@dataclass(frozen=True)
class Half:
    """The shape of the encoder or the decoder, by level, the level of whole images first."""

    blocks: int
    """The residual blocks of a level."""
    attention: tuple[int, ...]
    """The levels with attention after each block."""
    attends_in_the_middle: bool


@dataclass(frozen=True)
class Shape:
    """The shape of an encoder and a decoder."""

    first: int
    """The channels of the first convolution."""
    channels: tuple[int, ...]
    """The channels of each level; each but the first halves the sides."""
    latent_channels: int
    """The channels of the encoder's features."""
    encoder: Half
    decoder: Half

    @property
    def stride(self) -> int:
        """The side in pixels of the part of an image that is one position."""
        return int(2 ** (len(self.channels) - 1))


def swish(x: Tensor) -> Tensor:
    """Return x * sigmoid(x)."""
    return F.silu(x)


def group_norm(channels: int) -> nn.GroupNorm:
    """Return the normalisation of features of so many channels."""
    return nn.GroupNorm(GROUPS, channels, eps=1e-6)


class ResidualBlock(nn.Module):
    """Two normalised 3x3 convolutions beside a shortcut."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = group_norm(channels), group_norm(out)
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(channels, out, 1) if channels != out else None

    def forward(self, x: Tensor) -> Tensor:
        """Return features (B, out, h, w)."""
        branch = self.conv1(swish(self.norm1(x)))
        branch = self.conv2(swish(self.norm2(branch)))
        whole: Tensor = branch + (x if self.nin_shortcut is None else self.nin_shortcut(x))
        return whole


class Attention(nn.Module):
    """Attention of one head over all positions, beside the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the shape of x (B, C, h, w)."""
        normed = self.norm(x)
        rows = [part(normed).flatten(2).transpose(1, 2)[:, None] for part in (self.q, self.k, self.v)]
        mixed = F.scaled_dot_product_attention(*rows)[:, 0].transpose(1, 2).reshape(x.shape)
        whole: Tensor = x + self.proj_out(mixed)
        return whole


class Middle(nn.Module):
    """The blocks at the smallest resolution."""

    def __init__(self, channels: int, attends: bool) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(channels, channels)
        self.attn_1 = Attention(channels) if attends else None
        self.block_2 = ResidualBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the shape of x (B, C, h, w)."""
        x = self.block_1(x)
        whole: Tensor = self.block_2(x if self.attn_1 is None else self.attn_1(x))
        return whole


class Resample(nn.Module):
    """The 3x3 convolution between two levels: of stride 2 downwards, after doubling the sides upwards."""

    def __init__(self, channels: int, upwards: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, *((1, 1) if upwards else (2, 0)))
        self.upwards = upwards

    def forward(self, x: Tensor) -> Tensor:
        """Return features of twice or half the sides."""
        grown = F.interpolate(x, scale_factor=2.0, mode="nearest") if self.upwards else F.pad(x, (0, 1, 0, 1))
        features: Tensor = self.conv(grown)
        return features


class Level(nn.Module):
    """The blocks of one resolution, and the step to the next."""

    def __init__(self, channels: int, out: int, half: Half, attends: bool, step: str | None) -> None:
        super().__init__()
        widths = [channels] + [out] * half.blocks
        self.block = nn.ModuleList(map(ResidualBlock, widths, widths[1:]))
        self.attn = nn.ModuleList(Attention(out) for _ in range(half.blocks * attends))
        self.step = step
        if step is not None:
            self.add_module(step, Resample(out, upwards=step == "upsample"))

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the next level's sides."""
        for number, block in enumerate(self.block):
            x = block(x)
            if len(self.attn):
                x = self.attn[number](x)
        return x if self.step is None else self.get_submodule(self.step)(x)


class Encoder(nn.Module):
    """Features (B, latent_channels, h, w) of pixels (B, 3, H, W)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        half, widths = shape.encoder, (shape.first, *shape.channels)
        last = len(shape.channels) - 1
        self.conv_in = nn.Conv2d(3, shape.first, 3, padding=1)
        self.down = nn.ModuleList(
            Level(widths[i], widths[i + 1], half, i in half.attention, "downsample" if i < last else None)
            for i in range(last + 1)
        )
        self.mid = Middle(widths[-1], half.attends_in_the_middle)
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], shape.latent_channels, 3, padding=1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return features of pixels."""
        x = self.conv_in(pixels)
        for level in self.down:
            x = level(x)
        features: Tensor = self.conv_out(swish(self.norm_out(self.mid(x))))
        return features


class Decoder(nn.Module):
    """Pixels (B, 3, H, W) of features (B, latent_channels, h, w)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        half, widths = shape.decoder, (*shape.channels, shape.channels[-1])
        self.conv_in = nn.Conv2d(shape.latent_channels, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1], half.attends_in_the_middle)
        self.up = nn.ModuleList(
            Level(widths[i + 1], widths[i], half, i in half.attention, "upsample" if i else None)
            for i in range(len(shape.channels))
        )
        self.norm_out = group_norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """Return pixels of features."""
        x = self.mid(self.conv_in(features))
        for level in reversed(self.up):
            x = level(x)
        pixels: Tensor = self.conv_out(swish(self.norm_out(x)))
        return pixels
