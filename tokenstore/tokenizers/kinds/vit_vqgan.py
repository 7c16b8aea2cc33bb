"""ViT-VQGAN: an autoencoder of vision transformers with a codebook looked up by cosine similarity.

The network (Yu et al. 2022, https://arxiv.org/abs/2110.04627) is written for the checkpoints that SeiT
(https://arxiv.org/abs/2303.11114) was published with: its parameters have their names and shapes.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from tokenstore.errors import TokenizerError
from tokenstore.networks.checkpoints import listed
from tokenstore.networks.transformer import HEAD_WIDTH, Transformer, sin_cos_table
from tokenstore.tokenizers.codebooks import load_codebook
from tokenstore.tokenizers.image_tokenizer import ImageTokenizer, to_images, weights_fingerprint
from tokenstore.tokenizers.strict_weights import fill, load_network, shapes_of

FORMAT = "tokenstore.vit_vqgan.1"


@dataclass(frozen=True)
class ViTVQGANConfig:
    """The shape of a ViT-VQGAN; encoder and decoder are alike."""

    width: int
    depth: int
    heads: int
    mlp: int
    grid: int = 32
    patch: int = 8
    codebook_size: int = 8192
    code_dim: int = 32

    @property
    def name(self) -> str:
        """The name of a published size, or of the network alone."""
        return {SMALL: "vit-vqgan-small", BASE: "vit-vqgan-base"}.get(self, "vit-vqgan")

    @property
    def image_size(self) -> int:
        """The side of an image in pixels."""
        return self.grid * self.patch


SMALL = ViTVQGANConfig(width=512, depth=8, heads=8, mlp=2048)
BASE = ViTVQGANConfig(width=768, depth=12, heads=12, mlp=3072)
LARGEST = ViTVQGANConfig(width=1 << 12, depth=64, heads=64, mlp=1 << 14, grid=128)
"""No size read from a checkpoint may be larger: a hostile file must not make us build an endless model."""
_ENCODER_PARTS = ("encoder.", "pre_quant.")
"""The beginnings of the names of an encoder's tensors."""


class ViTEncoder(nn.Module):
    """Features (B, N, width) of images (B, 3, H, W), floats in 0..1."""

    en_pos_embedding: Tensor  # 1, N, width

    def __init__(self, config: ViTVQGANConfig) -> None:
        super().__init__()
        self.register_buffer("en_pos_embedding", sin_cos_table((config.grid, config.grid), config.width))
        self.to_patch_embedding = nn.Sequential(
            nn.Conv2d(3, config.width, config.patch, stride=config.patch), nn.Flatten(2)
        )
        self.transformer = Transformer(config.width, config.depth, config.heads, config.mlp)

    def forward(self, unit: Tensor) -> Tensor:
        """Return features of images."""
        patches: Tensor = self.to_patch_embedding(unit).transpose(1, 2)
        features: Tensor = self.transformer(patches + self.en_pos_embedding)
        return features


class ViTDecoder(nn.Module):
    """Images (B, 3, H, W), floats about 0..1, of features (B, N, width)."""

    de_pos_embedding: Tensor  # 1, N, width

    def __init__(self, config: ViTVQGANConfig) -> None:
        super().__init__()
        self.register_buffer("de_pos_embedding", sin_cos_table((config.grid, config.grid), config.width))
        self.transformer = Transformer(config.width, config.depth, config.heads, config.mlp)
        self.to_pixel = nn.Sequential(
            nn.Unflatten(2, (config.grid, config.grid)),
            nn.ConvTranspose2d(config.width, 3, config.patch, stride=config.patch),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return images of features."""
        features = self.transformer(features + self.de_pos_embedding)
        unit: Tensor = self.to_pixel(features.transpose(1, 2))
        return unit


class Quantizer(nn.Module):
    """The codebook; its rows count by their direction alone."""

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(size, dim)

    def rows(self) -> Tensor:
        """Return the codebook's unit vectors (K, D)."""
        return F.normalize(self.embedding.weight, dim=1)


class _EncodingNetwork(nn.Module):
    """The base of networks that encode: images are floats in 0..1, (B, 3, H, W), codes (B, h, w)."""

    config: ViTVQGANConfig
    encoder: ViTEncoder
    pre_quant: nn.Linear
    quantizer: Quantizer

    def latents(self, unit: Tensor) -> Tensor:
        """Return unit vectors (B, h * w, D) of images."""
        return F.normalize(self.pre_quant(self.encoder(unit)), dim=2)

    def codes(self, unit: Tensor) -> Tensor:
        """Return codes int64 of images: the codebook's row of the largest cosine similarity."""
        similarity = self.latents(unit) @ self.quantizer.rows().T
        return similarity.argmax(dim=2).reshape(len(unit), self.config.grid, self.config.grid)


class ViTVQGAN(_EncodingNetwork):
    """Encoder, codebook and decoder; images are floats in 0..1, (B, 3, H, W), codes (B, h, w)."""

    def __init__(self, config: ViTVQGANConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = ViTEncoder(config)
        self.decoder = ViTDecoder(config)
        self.pre_quant = nn.Linear(config.width, config.code_dim)
        self.post_quant = nn.Linear(config.code_dim, config.width)
        self.quantizer = Quantizer(config.codebook_size, config.code_dim)

    def rebuild(self, codes: Tensor) -> Tensor:
        """Rebuild images from codes; floats may lie a little outside 0..1."""
        embeddings = F.embedding(codes.flatten(1), self.quantizer.rows())
        unit: Tensor = self.decoder(self.post_quant(embeddings))
        return unit


def random_model(config: ViTVQGANConfig, seed: int) -> ViTVQGAN:
    """Make an untrained model in eval mode, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ViTVQGAN(config).eval()


def load_checkpoint(path: Path) -> ViTVQGAN:
    """Load the model in a checkpoint, in float32 and eval mode.

    The file is a safetensors file or one of torch.save: a dict of tensors by name, or a Lightning
    checkpoint with such a dict as `state_dict`. Nothing in it is ever executed. Raises TokenizerError
    where it is absent, damaged, or holds other tensors than a ViT-VQGAN.
    """
    return load_network(path, _build, of_runs=False)


def _build(values: Mapping[str, object], file_nbytes: int) -> ViTVQGAN:
    config = _recognise(shapes_of(values))
    if config.width % 4:
        raise TokenizerError(f"expected a width that is a multiple of 4, found {config.width}")
    return fill(lambda: ViTVQGAN(config), values, file_nbytes, _label(config))


def _recognise(shapes: Mapping[str, tuple[int, ...]]) -> ViTVQGANConfig:
    """Return the config that most of the shapes suggest, and of SMALL what no shape suggests.

    A checkpoint as wide as a published one has its depth: else a lost layer would go unnoticed.
    """

    def most(ending: str, axis: int, otherwise: int) -> int:
        sizes = (shape[axis] for name, shape in shapes.items() if name.endswith(ending) and len(shape) > axis)
        ((size, _),) = Counter(sizes).most_common(1) or [(0, 0)]
        return size or otherwise

    layers = {match[1] for name in shapes if (match := re.search(r"\.layers\.(\d+)\.", name))}
    width = most("norm.weight", 0, SMALL.width)
    published = {config.width: config.depth for config in (SMALL, BASE)}
    config = ViTVQGANConfig(
        width=width,
        depth=published.get(width) or len(layers) or SMALL.depth,
        heads=most("to_qkv.weight", 0, 3 * HEAD_WIDTH * SMALL.heads) // (3 * HEAD_WIDTH) or 1,
        mlp=most("net.0.bias", 0, SMALL.mlp),
        grid=math.isqrt(most("pos_embedding", 1, SMALL.grid**2)),
    )
    for field, limit in asdict(LARGEST).items():
        if getattr(config, field) > limit:
            raise TokenizerError(f"expected a {field} of at most {limit}, found {getattr(config, field)}")
    return config


def _label(config: ViTVQGANConfig) -> str:
    sizes = f"width {config.width}, {config.depth} layers, {config.heads} heads, MLP {config.mlp}"
    return f"{config.name} ({sizes}, grid {config.grid}), the nearest by their shapes"


class ViTVQGANTokenizer(ImageTokenizer):
    """The Tokenizer over a ViTVQGAN; its positions are for images of one size only."""

    network: ViTVQGAN

    def __init__(self, model: _EncodingNetwork) -> None:
        super().__init__(model)
        config = model.config
        self.name = config.name
        self.image_size = config.image_size
        self.stride = config.patch
        self.codebook_sizes = (config.codebook_size,)
        self.codebook = model.quantizer.rows().detach().cpu().numpy()
        head = f"{FORMAT}\n{json.dumps(asdict(config), sort_keys=True)}"
        self.fingerprint = weights_fingerprint(head, model.state_dict())

    @override
    def grid(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        expected = (3, self.image_size, self.image_size)
        if tuple(input_shape) != expected:
            raise TokenizerError(
                f"{self.name}: expected an image {expected}, the only size that it has positions for, "
                f"found {tuple(input_shape)}; resize to {self.image_size}x{self.image_size}"
            )
        return (self.network.config.grid, self.network.config.grid)

    @override
    def decode(self, codes: Tensor) -> Tensor:
        side = self.network.config.grid
        if tuple(codes.shape[1:]) != (side, side):
            raise TokenizerError(
                f"{self.name}: expected codes (B, {side}, {side}), found {tuple(codes.shape)}"
            )
        return super().decode(codes)

    @override
    def encode_pass(self, images: Tensor) -> Tensor:
        # subtle: another memory layout may mean another kernel on some devices, and then other codes
        return self.network.codes((images.float() / 255).contiguous())

    @override
    def decode_pass(self, codes: Tensor) -> Tensor:
        return to_images(self.network.rebuild(codes))


class ViTVQGANEncoder(_EncodingNetwork):
    """The encoder of a ViTVQGAN and the vectors of a codebook of one's own: images to codes, not back."""

    def __init__(self, config: ViTVQGANConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = ViTEncoder(config)
        self.pre_quant = nn.Linear(config.width, config.code_dim)
        self.quantizer = Quantizer(config.codebook_size, config.code_dim)


class ViTVQGANEncoderTokenizer(ViTVQGANTokenizer):
    """The Tokenizer over a ViTVQGANEncoder, as SeiT's release has one: it encodes, and decodes nothing.

    The codebook's vectors are as they are in their file, since networks of vectors were trained on these.
    """

    def __init__(self, model: ViTVQGANEncoder) -> None:
        super().__init__(model)
        self.codebook = model.quantizer.embedding.weight.detach().cpu().numpy()

    @override
    def decode(self, codes: Tensor) -> Tensor:
        raise TokenizerError(
            f"{self.name}: expected a tokenizer with a decoder, found an encoder and a codebook; nothing can "
            "be decoded by them"
        )


def load_encoder(path: Path, codebook: Path) -> ViTVQGANEncoder:
    """Load the encoder of a checkpoint and the vectors (K, D) of a codebook, in float32 and eval mode.

    Tensors of a decoder or of another codebook in the checkpoint are ignored. Raises TokenizerError as
    `load_checkpoint` does, and for a file that holds no codebook.
    """
    vectors = torch.from_numpy(load_codebook(codebook))

    def build(values: Mapping[str, object], file_nbytes: int) -> ViTVQGANEncoder:
        own = {name: value for name, value in values.items() if name.startswith(_ENCODER_PARTS)}
        shapes = shapes_of(own)
        if not shapes or vectors.ndim != 2:
            raise TokenizerError(
                f"expected an encoder ({', '.join(part + '*' for part in _ENCODER_PARTS)}) and a codebook "
                f"(K, D), found {listed(map(str, values))} and {tuple(vectors.shape)}"
            )
        config = replace(_recognise(shapes), codebook_size=len(vectors), code_dim=vectors.shape[1])
        tensors = {**own, "quantizer.embedding.weight": vectors}
        return fill(lambda: ViTVQGANEncoder(config), tensors, file_nbytes + vectors.nbytes, _label(config))

    return load_network(path, build, of_runs=False)


def load(argument: str | None) -> ViTVQGANTokenizer:
    """Load the tokenizer of CHECKPOINT, or of CHECKPOINT#CODEBOOK, whose own file has the vectors.

    Raises TokenizerError if it cannot be loaded.
    """
    if argument is None:
        raise TokenizerError("expected vit-vqgan:CHECKPOINT, found no path of a checkpoint")
    checkpoint, _, codebook = argument.partition("#")
    if codebook and not Path(argument).exists():
        return ViTVQGANEncoderTokenizer(load_encoder(Path(checkpoint), Path(codebook)))
    return ViTVQGANTokenizer(load_checkpoint(Path(argument)))
