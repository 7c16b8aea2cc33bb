"""MaskGIT's VQGAN, as re-issued for PyTorch: 16x16 positions of 1,024 codes at 256x256 pixels.

Chang et al. 2022, https://arxiv.org/abs/2202.04200. Pixels are floats in 0..1, the look-up is Euclidean. Its
decoder is part of TiTok too.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from tokenstore.errors import TokenizerError
from tokenstore.tokenizers.convolutional import (
    GROUPS,
    MOST_BLOCKS,
    MOST_CHANNELS,
    MOST_CODES,
    MOST_LEVELS,
    group_norm,
    swish,
)
from tokenstore.tokenizers.image_tokenizer import ImageTokenizer, to_images, weights_fingerprint
from tokenstore.tokenizers.lookups import Euclidean
from tokenstore.tokenizers.model_folders import checkpoint_at, try_out, whole_positions
from tokenstore.tokenizers.strict_weights import (
    Shapes,
    fill,
    load_network,
    most_frequent,
    numbers_in,
    shape_at,
    shapes_of,
)

__all__ = ["MaskgitDecoder", "MaskgitShape", "MaskgitTokenizer", "load", "recognise_decoder"]

FORMAT = "tokenstore.maskgit_vqgan.1"
DEFAULT_IMAGE_SIZE = 256


@dataclass(frozen=True)
class MaskgitShape:
    """The shape of a MaskGIT VQGAN's encoder or decoder."""

    outer: int
    """The channels of the convolution at the side of the pixels."""
    channels: tuple[int, ...]
    """The channels of each level, that of whole images first; each but the first halves the sides."""
    blocks: int
    """The residual blocks of a level, and of the middle."""
    latent_channels: int

    @property
    def stride(self) -> int:
        """The side in pixels of the part of an image that is one position."""
        return int(2 ** (len(self.channels) - 1))


class Block(nn.Module):
    """Two normalised 3x3 convolutions without biases.

    subtle: where widths differ, what is added is not the block's input but a 1x1 convolution of its output.
    """

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = group_norm(channels), group_norm(out)
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.nin_shortcut = nn.Conv2d(out, out, 1, bias=False) if channels != out else None

    def forward(self, x: Tensor) -> Tensor:
        """Return features (B, out, h, w)."""
        branch = self.conv1(swish(self.norm1(x)))
        branch = self.conv2(swish(self.norm2(branch)))
        whole: Tensor = branch + (x if self.nin_shortcut is None else self.nin_shortcut(branch))
        return whole


def _blocks(channels: int, out: int, count: int) -> nn.ModuleList:
    widths = [channels] + [out] * count
    return nn.ModuleList(map(Block, widths, widths[1:]))


class Level(nn.Module):
    """The blocks of one resolution, and the convolution after doubling the sides if there is one."""

    def __init__(self, channels: int, out: int, count: int, doubles: bool = False) -> None:
        super().__init__()
        self.block = _blocks(channels, out, count)
        self.upsample_conv = nn.Conv2d(out, out, 3, padding=1) if doubles else None

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the next level's sides."""
        for block in self.block:
            x = block(x)
        if self.upsample_conv is None:
            return x
        features: Tensor = self.upsample_conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return features


class MaskgitEncoder(nn.Module):
    """Latents (B, latent_channels, h, w) of pixels (B, 3, H, W)."""

    def __init__(self, shape: MaskgitShape) -> None:
        super().__init__()
        widths = (shape.outer, *shape.channels)
        self.conv_in = nn.Conv2d(3, shape.outer, 3, padding=1, bias=False)
        self.down = nn.ModuleList(Level(*pair, shape.blocks) for pair in itertools.pairwise(widths))
        self.mid = _blocks(widths[-1], widths[-1], shape.blocks)
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], shape.latent_channels, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return latents of pixels."""
        x = self.conv_in(pixels)
        for number, level in enumerate(self.down):
            x = level(F.avg_pool2d(x, 2) if number else x)
        for block in self.mid:
            x = block(x)
        latents: Tensor = self.conv_out(swish(self.norm_out(x)))
        return latents


class MaskgitDecoder(nn.Module):
    """Pixels (B, 3, H, W) of vectors (B, latent_channels, h, w)."""

    def __init__(self, shape: MaskgitShape) -> None:
        super().__init__()
        widths = (*shape.channels, shape.channels[-1])
        self.conv_in = nn.Conv2d(shape.latent_channels, widths[-1], 3, padding=1)
        self.mid = _blocks(widths[-1], widths[-1], shape.blocks)
        self.up = nn.ModuleList(
            Level(widths[i + 1], widths[i], shape.blocks, doubles=i > 0) for i in range(len(shape.channels))
        )
        self.norm_out = group_norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, vectors: Tensor) -> Tensor:
        """Return pixels of vectors."""
        x = self.conv_in(vectors)
        for part in (*self.mid, *reversed(self.up)):
            x = part(x)
        pixels: Tensor = self.conv_out(swish(self.norm_out(x)))
        return pixels


class MaskgitVQGAN(nn.Module):
    """Encoder, codebook and decoder; pixels are floats in 0..1, (B, 3, H, W), codes (B, h, w)."""

    def __init__(self, encoder: MaskgitShape, decoder: MaskgitShape, codebook_size: int) -> None:
        super().__init__()
        self.shapes = encoder, decoder
        self.encoder, self.decoder = MaskgitEncoder(encoder), MaskgitDecoder(decoder)
        self.quantize = Euclidean(codebook_size, encoder.latent_channels)

    def rebuild(self, codes: Tensor) -> Tensor:
        """Rebuild pixels from codes; floats may lie a little outside 0..1."""
        pixels: Tensor = self.decoder(self.quantize.vectors(codes))
        return pixels


def recognise_encoder(shapes: Shapes, label: str) -> MaskgitShape:
    """Return the shape of the encoder among tensors; raise TokenizerError where there is none."""
    return _recognise(shapes, "encoder", "down", ("conv_in.weight", 0), ("conv_out.weight", 0), label)


def recognise_decoder(shapes: Shapes, label: str, part: str = "decoder") -> MaskgitShape:
    """Return the shape of the decoder among tensors; raise TokenizerError where there is none."""
    return _recognise(shapes, part, "up", ("conv_out.weight", 1), ("conv_in.weight", 1), label)


def _recognise(
    shapes: Shapes, part: str, levels: str, outer: tuple[str, int], latent: tuple[str, int], label: str
) -> MaskgitShape:
    numbers = numbers_in(shapes, rf"{part}\.{levels}\.(\d+)\.block\.")
    if numbers != list(range(len(numbers))) or not 1 <= len(numbers) <= MOST_LEVELS:
        raise TokenizerError(
            f"expected {label} with levels from 0 to at most {MOST_LEVELS - 1} as {part}.{levels}.N, found "
            f"{numbers or 'none'}"
        )
    counts = [len(numbers_in(shapes, rf"{part}\.{levels}\.{level}\.block\.(\d+)\.")) for level in numbers]
    shape = MaskgitShape(
        outer=shape_at(shapes, f"{part}.{outer[0]}", 4, label)[outer[1]],
        channels=tuple(
            shape_at(shapes, f"{part}.{levels}.{level}.block.0.conv1.weight", 4, label)[0]
            for level in numbers
        ),
        blocks=min(most_frequent(counts), MOST_BLOCKS),
        latent_channels=shape_at(shapes, f"{part}.{latent[0]}", 4, label)[latent[1]],
    )
    widths = shape.outer, *shape.channels
    if any(width % GROUPS for width in widths) or max(*widths, shape.latent_channels) > MOST_CHANNELS:
        raise TokenizerError(
            f"expected channels that are multiples of {GROUPS}, at most {MOST_CHANNELS:,}, found {widths} "
            f"and latents of {shape.latent_channels}"
        )
    return shape


def build(values: Mapping[str, object], file_nbytes: int) -> MaskgitVQGAN:
    """Return the network of a checkpoint's values by name.

    Raises TokenizerError, with lists of names, for values that are not exactly those of a MaskGIT VQGAN.
    """
    label, shapes = "a MaskGIT VQGAN", shapes_of(values)
    encoder, decoder = recognise_encoder(shapes, label), recognise_decoder(shapes, label)
    size = shape_at(shapes, "quantize.embedding.weight", 2, label)[0]
    if size > MOST_CODES:
        raise TokenizerError(f"expected at most {MOST_CODES:,} codes, found {size:,}")
    label += (
        f" (channels {'-'.join(map(str, encoder.channels))}, {encoder.blocks} blocks a level, "
        f"{size:,} codes of {encoder.latent_channels})"
    )
    return fill(lambda: MaskgitVQGAN(encoder, decoder, size), values, file_nbytes, label)


class MaskgitTokenizer(ImageTokenizer):
    """The Tokenizer over a MaskgitVQGAN; images of any multiple of its stride."""

    network: MaskgitVQGAN

    def __init__(self, model: MaskgitVQGAN) -> None:
        super().__init__(model)
        self.stride = model.shapes[0].stride
        self.image_size = whole_positions(DEFAULT_IMAGE_SIZE, self.stride)
        self.codebook = model.quantize.codebook
        self.codebook_sizes = (len(self.codebook),)
        self.name = f"maskgit-vqgan-f{self.stride}-{len(self.codebook)}"
        decisive = json.dumps([asdict(shape) for shape in model.shapes] + [model.quantize.kind])
        self.fingerprint = weights_fingerprint(f"{FORMAT}\n{decisive}\npixels 0..1", model.state_dict())

    @override
    def encode_pass(self, images: Tensor) -> Tensor:
        return self.network.quantize.codes(self.network.encoder(images.float() / 255))

    @override
    def decode_pass(self, codes: Tensor) -> Tensor:
        return to_images(self.network.rebuild(codes))


def load(argument: str | None) -> MaskgitTokenizer:
    """Load the tokenizer of FILE, of a folder with one checkpoint, or of `HUB-ID#FILE`.

    Raises TokenizerError where the file is no whole MaskGIT VQGAN.
    """
    if not argument:
        raise TokenizerError("expected maskgit-vqgan:FILE, found no path of a checkpoint")
    path = checkpoint_at(argument)
    tokenizer = MaskgitTokenizer(load_network(path, build))
    try_out(tokenizer, str(path))
    return tokenizer
