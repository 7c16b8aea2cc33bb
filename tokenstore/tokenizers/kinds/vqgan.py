"""The VQGAN family: one convolutional encoder and decoder, four look-ups, the published checkpoints' names.

Esser et al. 2021, https://arxiv.org/abs/2012.09841. Checkpoints of taming-transformers, of latent diffusion,
of IBQ (https://arxiv.org/abs/2412.02692), of Emu3.5's vision tokenizer and of LlamaGen
(https://arxiv.org/abs/2406.06525, whose tensors have other names) are read; all sizes follow from the
tensors' shapes. Pixels are floats in -1..1. Where a file has averaged weights beside those of the last step
(`model_ema.`), the averaged ones are taken.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace

from torch import Tensor, nn
from typing_extensions import override

from tokenstore.errors import TokenizerError
from tokenstore.tokenizers.convolutional import (
    GROUPS,
    MOST_BLOCKS,
    MOST_CHANNELS,
    MOST_CODES,
    MOST_LEVELS,
    Decoder,
    Encoder,
    Half,
    Shape,
)
from tokenstore.tokenizers.image_tokenizer import ImageTokenizer, to_images, weights_fingerprint
from tokenstore.tokenizers.kinds.conv_vq import to_pixels
from tokenstore.tokenizers.lookups import LOOKUPS, Gumbel
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

FORMAT = "tokenstore.vqgan.1"
UNUSED = ("quantize.codebook_used",)
"""The tensors of published files that no code depends on."""
DEFAULT_IMAGE_SIZE = 256


@dataclass(frozen=True)
class VQGANConfig:
    """The shape of a VQGAN."""

    shape: Shape
    code_dim: int
    codebook_size: int
    lookup: str
    layout: str
    """The names of the tensors: `taming` or `llamagen`."""

    @property
    def name(self) -> str:
        """The name of a published tokenizer of these sizes, or of the family."""
        sizes = self.layout, self.lookup, self.shape.stride, self.codebook_size, self.code_dim
        return PUBLISHED.get(sizes, f"vqgan-f{self.shape.stride}-{self.codebook_size}")


PUBLISHED = {
    ("taming", "euclidean", 16, 1024, 256): "vqgan-f16-1024",
    ("taming", "euclidean", 16, 16384, 256): "vqgan-f16-16384",
    ("taming", "gumbel", 8, 8192, 256): "vqgan-gumbel-f8",
    ("taming", "euclidean", 4, 8192, 3): "ldm-vq-f4",
    ("taming", "euclidean", 8, 16384, 4): "ldm-vq-f8",
    ("taming", "euclidean", 8, 256, 4): "ldm-vq-f8-n256",
    ("taming", "euclidean", 16, 16384, 8): "ldm-vq-f16",
    ("llamagen", "cosine", 16, 16384, 8): "llamagen-vq-16",
    ("llamagen", "cosine", 8, 16384, 8): "llamagen-vq-8",
    **{("taming", "dot", 16, size, 256): f"ibq-{size}" for size in (1024, 8192, 16384, 262144)},
    ("taming", "dot", 16, 131072, 256): "emu3.5-vq",
}
"""The names by layout, look-up, pixels a position, codes, and channels of a code."""
_IBQ_BLOCKS = 4
"""The residual blocks a level that tell IBQ and Emu3.5, whose names are those of taming, from the others."""


class VQGAN(nn.Module):
    """Encoder, look-up and decoder; pixels are floats in -1..1, (B, 3, H, W), codes (B, h, w)."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config.shape), Decoder(config.shape)
        self.quantize = LOOKUPS[config.lookup](config.codebook_size, config.code_dim)
        self.quant_conv = nn.Conv2d(config.shape.latent_channels, config.code_dim, 1)
        self.post_quant_conv = nn.Conv2d(config.code_dim, config.shape.latent_channels, 1)

    def latents(self, pixels: Tensor) -> Tensor:
        """Return latents (B, D, h, w) of pixels."""
        latents: Tensor = self.quant_conv(self.encoder(pixels))
        return latents

    def rebuild(self, codes: Tensor) -> Tensor:
        """Rebuild pixels from codes; floats may lie a little outside -1..1."""
        pixels: Tensor = self.decoder(self.post_quant_conv(self.quantize.vectors(codes)))
        return pixels


def llamagen_name(name: str, levels: int) -> str:
    """Return the name that LlamaGen's checkpoints have for a tensor of a VQGAN of so many levels."""
    name = re.sub(r"\.mid\.(block_1|attn_1|block_2)\.", lambda match: f".mid.{_MIDDLE[match[1]]}.", name)
    name = re.sub(r"^encoder\.down\.", "encoder.conv_blocks.", name)
    # subtle: its decoder counts levels from the smallest resolution
    upwards = re.compile(r"^decoder\.up\.(\d+)\.")
    name = upwards.sub(lambda match: f"decoder.conv_blocks.{levels - 1 - int(match[1])}.", name)
    return re.sub(r"(conv_blocks\.\d+)\.block\.", r"\1.res.", name)


_MIDDLE = {"block_1": 0, "attn_1": 1, "block_2": 2}


def namer(config: VQGANConfig) -> Callable[[str], str]:
    """Return the function from the names of a VQGAN's tensors to those in a checkpoint of its layout."""
    if config.layout == "llamagen":
        return lambda name: llamagen_name(name, len(config.shape.channels))
    return str


def recognise(shapes: Shapes) -> VQGANConfig:
    """Return the config that a checkpoint's names and shapes imply, with its look-up.

    Raises TokenizerError where there are no such tensors or sizes are beyond all published ones.
    """
    label = "a VQGAN"
    layout = "llamagen" if any(name.startswith("encoder.conv_blocks.") for name in shapes) else "taming"
    levels = numbers_in(shapes, r"encoder\.(?:down|conv_blocks)\.(\d+)\.")
    if levels != list(range(len(levels))) or not 1 <= len(levels) <= MOST_LEVELS:
        raise TokenizerError(
            f"expected {label} with levels from 0 to at most {MOST_LEVELS - 1} as encoder.down.N or "
            f"encoder.conv_blocks.N, found {levels or 'none'}"
        )
    table = Gumbel.table_name if f"quantize.{Gumbel.table_name}" in shapes else "embedding.weight"
    codes, code_dim = shape_at(shapes, f"quantize.{table}", 2, label)
    first = "res.0" if layout == "llamagen" else "block.0"
    place = "conv_blocks" if layout == "llamagen" else "down"
    shape = Shape(
        first=shape_at(shapes, "encoder.conv_in.weight", 4, label)[0],
        channels=tuple(
            shape_at(shapes, f"encoder.{place}.{level}.{first}.conv1.weight", 4, label)[0] for level in levels
        ),
        latent_channels=shape_at(shapes, "encoder.conv_out.weight", 4, label)[0],
        encoder=_half(shapes, "encoder", layout, len(levels)),
        decoder=_half(shapes, "decoder", layout, len(levels)),
    )
    config = VQGANConfig(shape, code_dim, codes, "euclidean", layout)
    _check_sizes(config)
    return replace(config, lookup=_lookup_of(config, table))


def _lookup_of(config: VQGANConfig, table: str) -> str:
    """Return the look-up that the names and sizes of a checkpoint tell."""
    if table == Gumbel.table_name:
        return "gumbel"
    if config.layout == "llamagen":
        return "cosine"
    ibq = config.shape.encoder.blocks == _IBQ_BLOCKS and config.shape.stride == 16 and config.code_dim == 256
    return "dot" if ibq else "euclidean"


def _half(shapes: Shapes, half: str, layout: str, levels: int) -> Half:
    levels_in, block = (("down" if half == "encoder" else "up"), "block")
    middle = f"{half}.mid.attn_1."
    if layout == "llamagen":
        levels_in, block, middle = "conv_blocks", "res", f"{half}.mid.1."
    place = rf"{half}\.{levels_in}\."
    counts = [len(numbers_in(shapes, rf"{place}{level}\.{block}\.(\d+)\.")) for level in range(levels)]
    attention = numbers_in(shapes, rf"{place}(\d+)\.attn\.")
    if half == "decoder" and layout == "llamagen":
        attention = sorted(levels - 1 - level for level in attention)
    return Half(
        min(most_frequent(counts), MOST_BLOCKS),
        tuple(attention),
        any(name.startswith(middle) for name in shapes),
    )


def _check_sizes(config: VQGANConfig) -> None:
    widths = config.shape.first, *config.shape.channels
    if any(width % GROUPS for width in widths):
        raise TokenizerError(f"expected channels that are multiples of {GROUPS}, found {widths}")
    for what, size, most in (
        ("channels", max(*widths, config.shape.latent_channels, config.code_dim), MOST_CHANNELS),
        ("codes", config.codebook_size, MOST_CODES),
    ):
        if size > most:
            raise TokenizerError(f"expected at most {most:,} {what}, found {size:,}")


def build(values: Mapping[str, object], file_nbytes: int, lookup: str | None = None) -> VQGAN:
    """Return the VQGAN of a checkpoint's values by name; `lookup` overrides the one that its names tell.

    Raises TokenizerError, with lists of names, for values that are not exactly those of a VQGAN.
    """
    config = recognise(shapes_of(values))
    if lookup is not None:
        if (lookup == "gumbel") != (config.lookup == "gumbel"):
            raise TokenizerError(f"expected the look-up {config.lookup} of this file, found {lookup!r}")
        config = replace(config, lookup=lookup)
    used, name_in_file = averaged_names({name: values[name] for name in values if name not in UNUSED})
    own_name = namer(config)
    return fill(
        lambda: VQGAN(config), used, file_nbytes, label_of(config), lambda name: name_in_file(own_name(name))
    )


def label_of(config: VQGANConfig) -> str:
    """Return a config as text, for errors."""
    shape = config.shape
    return (
        f"{config.name} (channels {'-'.join(map(str, shape.channels))}, {shape.encoder.blocks} and "
        f"{shape.decoder.blocks} blocks a level, {config.codebook_size:,} codes of {config.code_dim}, "
        f"{config.lookup} look-up)"
    )


class VQGANTokenizer(ImageTokenizer):
    """The Tokenizer over a VQGAN; images of any multiple of its stride."""

    network: VQGAN

    def __init__(self, model: VQGAN) -> None:
        super().__init__(model)
        config = model.config
        self.name, self.stride = config.name, config.shape.stride
        self.image_size = whole_positions(DEFAULT_IMAGE_SIZE, self.stride)
        self.codebook_sizes = (config.codebook_size,)
        self.codebook = model.quantize.codebook
        decisive = {key: value for key, value in asdict(config).items() if key != "layout"}
        head = f"{FORMAT}\n{json.dumps(decisive, sort_keys=True)}\npixels -1..1"
        self.fingerprint = weights_fingerprint(head, model.state_dict())

    @override
    def encode_pass(self, images: Tensor) -> Tensor:
        return self.network.quantize.codes(self.network.latents(to_pixels(images)))

    @override
    def decode_pass(self, codes: Tensor) -> Tensor:
        return to_images((self.network.rebuild(codes) + 1) / 2)


def load(argument: str | None) -> VQGANTokenizer:
    """Load the tokenizer of `FILE`, or of `FILE@LOOKUP` with one of LOOKUPS where names don't tell it.

    FILE may be a folder with one checkpoint, or `ORG/NAME#FILE` on the Hugging Face hub.

    Raises TokenizerError where the file is no whole VQGAN.
    """
    if not argument:
        raise TokenizerError("expected vqgan:FILE, found no path of a checkpoint")
    name, at, lookup = argument.rpartition("@")
    if not at or lookup not in LOOKUPS:
        name, lookup = argument, ""
    path = checkpoint_at(name)
    model = load_network(path, lambda values, nbytes: build(values, nbytes, lookup or None))
    tokenizer = VQGANTokenizer(model)
    try_out(tokenizer, str(path))
    return tokenizer
