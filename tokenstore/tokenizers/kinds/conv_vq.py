"""A convolutional vector quantiser, light to encode with; one of its kind is packaged (`conv-vq-8x-2k`).

Images are cut into patches by a pixel-unshuffle; encoder and decoder work at the resolution of the
grid, with ConvNeXt blocks (Liu et al. 2022, https://arxiv.org/abs/2201.03545). The code of a position
is the entry of the codebook with the largest cosine similarity to the encoder's vector there (as in
ViT-VQGAN, Yu et al. 2022, https://arxiv.org/abs/2110.04627).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from tokenstore.networks.pointwise import Pointwise
from tokenstore.tokenizers.configs import SizedConfig
from tokenstore.tokenizers.image_tokenizer import ImageTokenizer, to_images, weights_fingerprint
from tokenstore.tokenizers.similarities import most_similar
from tokenstore.tokenizers.weights_files import load_model, save_model

PACKAGED_WEIGHTS = Path(__file__).parents[1] / "weights" / "conv-vq-8x-2k.safetensors"
FORMAT = "tokenstore.conv_vq.1"


@dataclass(frozen=True)
class ConvVQConfig(SizedConfig):
    """The shape of a ConvVQ model, kept as JSON in its weights file."""

    name: str = "conv-vq-8x-2k"
    image_size: int = 256
    patch: int = 8
    codebook_size: int = 2048
    code_dim: int = 32
    encoder_width: int = 192
    encoder_blocks: int = 6
    decoder_width: int = 256
    decoder_blocks: int = 8

    @property
    def blocks(self) -> int:
        """The blocks of encoder and decoder."""
        return self.encoder_blocks + self.decoder_blocks

    def build(self) -> ConvVQ:
        """Return a model of this shape, with new weights."""
        return ConvVQ(self)


class Block(nn.Module):
    """A ConvNeXt block of 3x3 depthwise convolution and a pointwise network twice as wide."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm = nn.LayerNorm(width)
        self.expand = Pointwise(width, 2 * width)
        self.project = Pointwise(2 * width, width)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, x: Tensor) -> Tensor:  # B, C, H, W
        """Return features of the same shape."""
        y: Tensor = self.norm(self.spatial(x).permute(0, 2, 3, 1))
        y = self.project(F.gelu(self.expand(y)))
        return x + y.permute(0, 3, 1, 2)


class ConvVQ(nn.Module):
    """Encoder, codebook and decoder.

    Pixels are floats in -1..1, (B, 3, H, W); latents and embeddings are unit vectors, (B, D, h, w).
    """

    codebook: Tensor  # K, D
    partners: None = None
    """Nothing: codes of a mirror image have nothing to do with those of the image."""

    def __init__(self, config: ConvVQConfig) -> None:
        super().__init__()
        self.config = config
        pixels = 3 * config.patch**2
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(config.patch),
            nn.Conv2d(pixels, config.encoder_width, 3, padding=1),
            *(Block(config.encoder_width) for _ in range(config.encoder_blocks)),
            nn.Conv2d(config.encoder_width, config.code_dim, 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(config.code_dim, config.decoder_width, 3, padding=1),
            *(Block(config.decoder_width) for _ in range(config.decoder_blocks)),
            nn.Conv2d(config.decoder_width, pixels, 3, padding=1),
            nn.PixelShuffle(config.patch),
        )
        codebook = torch.empty(config.codebook_size, config.code_dim)
        if not codebook.is_meta:  # which has no values, and for which torch would import its compiler
            codebook = F.normalize(codebook.normal_(), dim=1)
        self.register_buffer("codebook", codebook)

    @staticmethod
    def closed(vectors: Tensor) -> Tensor:
        """Return the codebook (K, D) that vectors (K, D) stand for: unit vectors."""
        return F.normalize(vectors, dim=1)

    def latents(self, pixels: Tensor) -> Tensor:
        """Return unit vectors (B, D, h, w) of pixels (B, 3, H, W)."""
        latents: Tensor = self.encoder(pixels)
        return F.normalize(latents.float(), dim=1)

    def nearest(self, latents: Tensor) -> Tensor:
        """Return codes (B, h, w) int64 of latents (B, D, h, w)."""
        batch, _, height, width = latents.shape
        rows = latents.permute(0, 2, 3, 1).flatten(0, 2)
        return most_similar(rows, self.codebook).view(batch, height, width)

    def embed(self, codes: Tensor) -> Tensor:
        """Return embeddings (B, D, h, w) of codes (B, h, w)."""
        return F.embedding(codes, self.codebook).permute(0, 3, 1, 2)

    def pixels(self, embeddings: Tensor) -> Tensor:
        """Return pixels (B, 3, H, W) of embeddings (B, D, h, w)."""
        pixels: Tensor = self.decoder(embeddings)
        return pixels.float()

    def save(self, path: Path) -> None:
        """Write the model to a weights file."""
        save_weights(self, path)

    def tokenizer(self) -> ConvVQTokenizer:
        """Return the tokenizer of this model."""
        return ConvVQTokenizer(self)


def to_pixels(images: Tensor) -> Tensor:
    """Return uint8 images as floats in -1..1."""
    return images.float() / 127.5 - 1


def save_weights(model: ConvVQ, path: Path) -> None:
    """Write a model as safetensors: networks in float16, the codebook in float32."""
    save_model(path, model, FORMAT, model.config)


def load_weights(path: Path) -> ConvVQ:
    """Load the model in a file that save_weights wrote, in float32 and eval mode.

    Raises TokenizerError where the file is absent, damaged, or has other tensors than its config asks for.
    """
    return load_model(path, FORMAT, ConvVQConfig.from_json, ConvVQ)


class ConvVQTokenizer(ImageTokenizer):
    """The Tokenizer over a trained ConvVQ."""

    network: ConvVQ

    def __init__(self, model: ConvVQ) -> None:
        super().__init__(model)
        config = model.config
        self.name = config.name
        self.image_size = config.image_size
        self.stride = config.patch
        self.codebook_sizes = (config.codebook_size,)
        self.codebook = model.codebook.cpu().numpy().copy()
        self.fingerprint = weights_fingerprint(f"{FORMAT}\n{config.to_json()}", model.state_dict())

    @classmethod
    def load(cls, path: str | Path) -> ConvVQTokenizer:
        """Load the tokenizer of a weights file; raise TokenizerError if it cannot be loaded."""
        return cls(load_weights(Path(path)))

    @override
    def encode_pass(self, images: Tensor) -> Tensor:
        pixels = to_pixels(images).contiguous(memory_format=torch.channels_last)
        return self.network.nearest(self.network.latents(pixels))

    @override
    def decode_pass(self, codes: Tensor) -> Tensor:
        return to_images((self.network.pixels(self.network.embed(codes)) + 1) / 2)


def load(argument: str | None) -> ConvVQTokenizer:
    """Load the tokenizer of a weights file, or the one that ships with the package."""
    return ConvVQTokenizer.load(PACKAGED_WEIGHTS if argument is None else argument)
