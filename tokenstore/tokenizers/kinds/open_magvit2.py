"""Open-MAGVIT2: a convolutional tokenizer without a table, whose codes are the signs of its latents.

Luo et al. 2024, https://arxiv.org/abs/2409.04410, after MAGVIT-v2 (Yu et al. 2023,
https://arxiv.org/abs/2310.05737): 2^18 or 2^14 implicit codes, the first channel the lowest bit. Pixels are
floats in -1..1. The averaged weights of a checkpoint (`model_ema.`) are those to use, and are taken where the
file has them. The decoder scales features by the mean and spread of each image's own codes, so that an image
needs two positions at least.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from torch import Tensor, nn
from typing_extensions import override

from tokenstore.errors import TokenizerError
from tokenstore.format import ImplicitCodebook
from tokenstore.tokenizers.convolutional import (
    GROUPS,
    MOST_BLOCKS,
    MOST_CHANNELS,
    MOST_LEVELS,
    group_norm,
    swish,
)
from tokenstore.tokenizers.image_tokenizer import ImageTokenizer, to_images, weights_fingerprint
from tokenstore.tokenizers.implicit_codes import ImplicitQuantiser
from tokenstore.tokenizers.kinds.conv_vq import to_pixels
from tokenstore.tokenizers.model_folders import checkpoint_at, try_out, whole_positions
from tokenstore.tokenizers.strict_weights import (
    Shapes,
    averaged_names,
    fill,
    load_network,
    most_frequent,
    numbers_in,
    shape_at,
    shapes_of,
)

FORMAT = "tokenstore.open_magvit2.1"
UNUSED = ("quantize.mask", "quantize.zero")
"""The constants that some versions of the program save."""
IMAGE_SIZES = {16: 256, 8: 128}
"""The side of the published models' images by pixels a position."""
MOST_BITS = 24
"""The most channels of a latent that are read from a checkpoint."""


@dataclass(frozen=True)
class MagvitConfig:
    """The shape of an Open-MAGVIT2."""

    first: int
    """The channels of the first convolution."""
    channels: tuple[int, ...]
    """The channels of each level; each but the first halves the sides."""
    blocks: int
    """The residual blocks of a level, and of the middle."""
    bits: int
    """The channels of a latent: one bit of a code each."""

    @property
    def stride(self) -> int:
        """The side in pixels of the part of an image that is one position."""
        return int(2 ** (len(self.channels) - 1))


class Block(nn.Module):
    """Two normalised 3x3 convolutions without biases beside a shortcut."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = group_norm(channels), group_norm(out)
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.nin_shortcut = nn.Conv2d(channels, out, 1, bias=False) if channels != out else None

    def forward(self, x: Tensor) -> Tensor:
        """Return features (B, out, h, w)."""
        branch = self.conv1(swish(self.norm1(x)))
        branch = self.conv2(swish(self.norm2(branch)))
        whole: Tensor = branch + (x if self.nin_shortcut is None else self.nin_shortcut(x))
        return whole


def blocks(widths: list[int]) -> nn.ModuleList:
    """Return the blocks that lead from each width to the next."""
    return nn.ModuleList(map(Block, widths, widths[1:]))


class AdaptiveNorm(nn.Module):
    """Features of mean 0 and variance 1 in each group, scaled and shifted by the spread and mean of codes."""

    def __init__(self, bits: int, channels: int) -> None:
        super().__init__()
        self.gn = nn.GroupNorm(GROUPS, channels, eps=1e-6, affine=False)
        self.gamma, self.beta = nn.Linear(bits, channels), nn.Linear(bits, channels)

    def forward(self, x: Tensor, vectors: Tensor) -> Tensor:
        """Return features of the shape of x (B, C, h, w) for the vectors (B, bits, h', w') of its image."""
        positions = vectors.flatten(2)
        spread = (positions.var(dim=2) + self.gn.eps).sqrt()  # of one fewer than the positions
        scale, shift = self.gamma(spread), self.beta(positions.mean(dim=2))
        features: Tensor = scale[:, :, None, None] * self.gn(x) + shift[:, :, None, None]
        return features


class Doubling(nn.Module):
    """A 3x3 convolution to four times the channels, which become twice the sides."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 4 * channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return features (B, C, 2 h, 2 w) of x (B, C, h, w)."""
        # subtle: the place within a position is the slower part of the channels, unlike in pixel_shuffle
        wide = self.conv1(x).unflatten(1, (2, 2, -1))  # b, down, right, C, h, w
        features: Tensor = wide.permute(0, 3, 4, 1, 5, 2).flatten(4).flatten(2, 3)
        return features


class Level(nn.Module):
    """The blocks of one resolution, and the step to the next."""

    def __init__(self, widths: list[int], step: str | None) -> None:
        super().__init__()
        self.block = blocks(widths)
        self.step = step
        if step == "downsample":
            self.downsample = nn.Conv2d(widths[-1], widths[-1], 3, stride=2, padding=1)
        elif step == "upsample":
            self.upsample = Doubling(widths[-1])

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the next level's sides."""
        for block in self.block:
            x = block(x)
        return x if self.step is None else self.get_submodule(self.step)(x)


class Encoder(nn.Module):
    """Latents (B, bits, h, w) of pixels (B, 3, H, W)."""

    def __init__(self, config: MagvitConfig) -> None:
        super().__init__()
        widths, last = (config.first, *config.channels), len(config.channels) - 1
        self.conv_in = nn.Conv2d(3, config.first, 3, padding=1, bias=False)
        self.down = nn.ModuleList(
            Level([widths[i]] + [widths[i + 1]] * config.blocks, "downsample" if i < last else None)
            for i in range(last + 1)
        )
        self.mid_block = blocks([widths[-1]] * (config.blocks + 1))
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], config.bits, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return latents of pixels."""
        x = self.conv_in(pixels)
        for part in (*self.down, *self.mid_block):
            x = part(x)
        latents: Tensor = self.conv_out(swish(self.norm_out(x)))
        return latents


class Decoder(nn.Module):
    """Pixels (B, 3, H, W) of vectors (B, bits, h, w)."""

    def __init__(self, config: MagvitConfig) -> None:
        super().__init__()
        widths = (*config.channels, config.channels[-1])
        levels = range(len(config.channels))
        self.conv_in = nn.Conv2d(config.bits, widths[-1], 3, padding=1)
        self.mid_block = blocks([widths[-1]] * (config.blocks + 1))
        self.up = nn.ModuleList(
            Level([widths[i + 1]] + [widths[i]] * config.blocks, "upsample" if i else None) for i in levels
        )
        self.adaptive = nn.ModuleList(AdaptiveNorm(config.bits, widths[i + 1]) for i in levels)
        self.norm_out = group_norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, vectors: Tensor) -> Tensor:
        """Return pixels of vectors."""
        x = self.conv_in(vectors)
        for block in self.mid_block:
            x = block(x)
        for adaptive, level in zip(reversed(self.adaptive), reversed(self.up), strict=True):
            x = level(adaptive(x, vectors))
        pixels: Tensor = self.conv_out(swish(self.norm_out(x)))
        return pixels


class OpenMagvit2(nn.Module):
    """Encoder, signs and decoder; pixels are floats in -1..1, (B, 3, H, W), codes (B, h, w)."""

    def __init__(self, config: MagvitConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.signs = ImplicitQuantiser(ImplicitCodebook("lfq", (2,) * config.bits))

    def rebuild(self, codes: Tensor) -> Tensor:
        """Rebuild pixels from codes; floats may lie a little outside -1..1."""
        vectors = self.signs.vectors(codes).to(self.decoder.conv_in.weight.dtype)
        pixels: Tensor = self.decoder(vectors)
        return pixels


def recognise(shapes: Shapes) -> MagvitConfig:
    """Return the config that a checkpoint's names and shapes imply; raise TokenizerError where none does."""
    label = "an Open-MAGVIT2"
    levels = numbers_in(shapes, r"encoder\.down\.(\d+)\.block\.")
    if levels != list(range(len(levels))) or not 1 <= len(levels) <= MOST_LEVELS:
        raise TokenizerError(
            f"expected {label} with levels from 0 to at most {MOST_LEVELS - 1} as encoder.down.N, found "
            f"{levels or 'none'}"
        )
    counts = [len(numbers_in(shapes, rf"encoder\.down\.{level}\.block\.(\d+)\.")) for level in levels]
    config = MagvitConfig(
        first=shape_at(shapes, "encoder.conv_in.weight", 4, label)[0],
        channels=tuple(
            shape_at(shapes, f"encoder.down.{level}.block.0.conv1.weight", 4, label)[0] for level in levels
        ),
        blocks=min(most_frequent(counts), MOST_BLOCKS),
        bits=shape_at(shapes, "encoder.conv_out.weight", 4, label)[0],
    )
    widths = config.first, *config.channels
    if any(width % GROUPS for width in widths) or max(widths) > MOST_CHANNELS:
        raise TokenizerError(
            f"expected channels that are multiples of {GROUPS}, at most {MOST_CHANNELS:,}, found {widths}"
        )
    if config.bits > MOST_BITS:
        raise TokenizerError(f"expected latents of at most {MOST_BITS} channels, found {config.bits}")
    return config


def build(values: Mapping[str, object], file_nbytes: int) -> OpenMagvit2:
    """Return the network of a checkpoint's values by name.

    Raises TokenizerError, with lists of names, for values that are not exactly those of an Open-MAGVIT2.
    """
    config = recognise(shapes_of(values))
    used, name_in_file = averaged_names({name: values[name] for name in values if name not in UNUSED})
    label = (
        f"an Open-MAGVIT2 (channels {'-'.join(map(str, config.channels))}, {config.blocks} blocks a level, "
        f"{config.bits} bits a code)"
    )
    return fill(lambda: OpenMagvit2(config), used, file_nbytes, label, name_in_file)


class OpenMagvit2Tokenizer(ImageTokenizer):
    """The Tokenizer over an OpenMagvit2; images of any multiple of its stride, of two positions at least."""

    network: OpenMagvit2

    def __init__(self, model: OpenMagvit2) -> None:
        super().__init__(model)
        config = model.config
        self.implicit_codebook = model.signs.implicit
        self.name, self.stride = f"open-magvit2-f{config.stride}-{config.bits}bit", config.stride
        self.image_size = whole_positions(IMAGE_SIZES.get(self.stride, 256), self.stride)
        self.codebook_sizes = (self.implicit_codebook.size,)
        self.codebook = self.implicit_codebook.table()
        head = f"{FORMAT}\n{json.dumps([asdict(config), self.implicit_codebook.to_dict()])}\npixels -1..1"
        self.fingerprint = weights_fingerprint(head, model.state_dict())

    @override
    def grid(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        grid = super().grid(input_shape)
        if grid == (1, 1):
            raise TokenizerError(
                f"{self.name}: expected an image of two positions at least, found one of "
                f"{tuple(input_shape[1:])} pixels; resize to {self.image_size}x{self.image_size}"
            )
        return grid

    @override
    def encode_pass(self, images: Tensor) -> Tensor:
        return self.network.signs.codes(self.network.encoder(to_pixels(images)))

    @override
    def decode_pass(self, codes: Tensor) -> Tensor:
        return to_images((self.network.rebuild(codes) + 1) / 2)


def load(argument: str | None) -> OpenMagvit2Tokenizer:
    """Load the tokenizer of FILE, of a folder with one checkpoint, or of `HUB-ID#FILE`.

    Raises TokenizerError where the file is no whole Open-MAGVIT2.
    """
    if not argument:
        raise TokenizerError("expected open-magvit2:FILE, found no path of a checkpoint")
    path = checkpoint_at(argument)
    tokenizer = OpenMagvit2Tokenizer(load_network(path, build))
    try_out(tokenizer, str(path))
    return tokenizer
