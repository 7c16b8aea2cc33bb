"""TiTok: an image as a list of 32 to 256 codes, from transformers over patches and latent tokens.

Yu et al. 2024, https://arxiv.org/abs/2406.07550. Pixels are floats in 0..1. The first models (L-32, B-64,
S-128) decode to logits over MaskGIT's 1,024 codes and then by its decoder; the later ones (BL-64 and on)
decode to pixels. Which of them a checkpoint is follows from its tensors; the config says whether the look-up
is by cosine similarity.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from typing_extensions import override

from tokenstore.errors import TokenizerError
from tokenstore.tokenizers.image_tokenizer import (
    ImageTokenizer,
    check_codes,
    to_images,
    weights_fingerprint,
)
from tokenstore.tokenizers.kinds.maskgit_vqgan import MaskgitDecoder, MaskgitShape, recognise_decoder
from tokenstore.tokenizers.lookups import LOOKUPS
from tokenstore.tokenizers.model_folders import ModelFolder, open_model, reason, weight_files
from tokenstore.tokenizers.strict_weights import Shapes, fill, load_network, numbers_in, shape_at, shapes_of

FORMAT = "tokenstore.titok.1"
HEAD_WIDTH = 64
"""The channels of one head of attention, in all published sizes."""
UNUSED = ("quantize.embed_prob",)
"""The tensors of published files that no code depends on."""
MOST_WIDTH, MOST_LAYERS, MOST_TOKENS, MOST_CODES = 1 << 12, 64, 1 << 14, 1 << 20
"""No size read from a checkpoint may be larger: a hostile file must not make us build an endless model."""
NAMES = {
    (32, 1024, 1024): "titok-l-32",
    (64, 768, 768): "titok-b-64",
    (128, 512, 512): "titok-s-128",
    (64, 768, 1024): "titok-bl-64",
    (128, 768, 1024): "titok-bl-128",
    (256, 512, 1024): "titok-sl-256",
}
"""The names of the published sizes, by tokens and the widths of encoder and decoder."""


@dataclass(frozen=True)
class HalfShape:
    """The shape of the encoder or the decoder."""

    width: int
    layers: int
    patch: int
    """The side of a patch in pixels; 0 for a decoder to MaskGIT's codes."""
    grid: int
    """The patches along each side of an image."""


@dataclass(frozen=True)
class TiTokConfig:
    """The shape of a TiTok."""

    tokens: int
    """The codes of an image."""
    codebook_size: int
    code_dim: int
    lookup: str
    encoder: HalfShape
    decoder: HalfShape
    pixel_decoder: MaskgitShape | None
    """The decoder of MaskGIT's codes; None where pixels are decoded directly."""
    pixel_codes: int
    """The number of MaskGIT's codes."""

    @property
    def image_size(self) -> int:
        """The side of an image in pixels."""
        return self.encoder.patch * self.encoder.grid

    @property
    def name(self) -> str:
        """The name of a published size, or of the family."""
        sizes = self.tokens, self.encoder.width, self.decoder.width
        return NAMES.get(sizes, f"titok-{self.tokens}")


class Layer(nn.Module):
    """Attention and an MLP, each over normalised rows and beside the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, width // HEAD_WIDTH, batch_first=True)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 4 * width))
        self.mlp.add_module("gelu", nn.GELU())
        self.mlp.add_module("c_proj", nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Return rows of the shape of x (B, N, width)."""
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, need_weights=False)[0]
        rows: Tensor = x + self.mlp(self.ln_2(x))
        return rows


class Half(nn.Module):
    """The part that encoder and decoder share: layers over a class token, the image's places, and tokens."""

    def __init__(self, shape: HalfShape, tokens: int) -> None:
        super().__init__()
        self.shape = shape
        width, places = shape.width, shape.grid**2
        self.class_embedding = nn.Parameter(torch.empty(1, width))
        self.positional_embedding = nn.Parameter(torch.empty(places + 1, width))
        self.latent_token_positional_embedding = nn.Parameter(torch.empty(tokens, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = nn.ModuleList(Layer(width) for _ in range(shape.layers))

    def rows(self, places: Tensor, tokens: Tensor) -> Tensor:
        """Return rows (B, 1 + P + T, width) of places (B, P, width) and tokens (B, T, width)."""
        first = self.class_embedding.expand(len(places), 1, -1)
        image = torch.cat([first, places], dim=1) + self.positional_embedding
        x = self.ln_pre(torch.cat([image, tokens + self.latent_token_positional_embedding], dim=1))
        for layer in self.transformer:
            x = layer(x)
        rows: Tensor = x
        return rows


class Encoder(Half):
    """Latents (B, D, 1, T) of pixels (B, 3, H, W) and the latent tokens (T, width)."""

    def __init__(self, config: TiTokConfig) -> None:
        super().__init__(config.encoder, config.tokens)
        width, patch = config.encoder.width, config.encoder.patch
        self.patch_embed = nn.Conv2d(3, width, patch, stride=patch)
        self.conv_out = nn.Conv2d(width, config.code_dim, 1)
        self.mixes_channels = config.decoder.patch == 0

    def forward(self, pixels: Tensor, latent_tokens: Tensor) -> Tensor:
        """Return latents of pixels."""
        places = self.patch_embed(pixels).flatten(2).transpose(1, 2)
        tokens = latent_tokens.expand(len(pixels), -1, -1)
        x = self.ln_post(self.rows(places, tokens)[:, 1 + places.shape[1] :])
        if self.mixes_channels:
            # subtle: the first models were trained with rows (T, width) read as if they were (width, T)
            x = x.reshape(len(x), x.shape[2], x.shape[1], 1)
        else:
            x = x.transpose(1, 2)[..., None]
        latents: Tensor = self.conv_out(x).transpose(2, 3)
        return latents


class Decoder(Half):
    """Pixels (B, 3, H, W), or logits of MaskGIT's codes (B, K, h, w), of vectors (B, D, 1, T)."""

    def __init__(self, config: TiTokConfig) -> None:
        super().__init__(config.decoder, config.tokens)
        width, patch = config.decoder.width, config.decoder.patch
        self.decoder_embed = nn.Linear(config.code_dim, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        if patch:
            self.ffn = nn.Sequential(nn.Conv2d(width, 3 * patch**2, 1))
            self.conv_out = nn.Conv2d(3, 3, 3, padding=1)
        else:
            self.ffn = nn.Sequential(
                nn.Conv2d(width, 2 * width, 1), nn.Tanh(), nn.Conv2d(2 * width, config.pixel_codes, 1)
            )

    def forward(self, vectors: Tensor) -> Tensor:
        """Return pixels or logits of vectors."""
        grid, patch = self.shape.grid, self.shape.patch
        tokens = self.decoder_embed(vectors[:, :, 0].transpose(1, 2))
        places = self.mask_token.expand(len(vectors), grid**2, -1)
        x = self.ln_post(self.rows(places, tokens)[:, 1 : 1 + grid**2])
        x = self.ffn(x.transpose(1, 2).reshape(len(x), -1, grid, grid).contiguous())
        if not patch:
            logits: Tensor = x
            return logits
        parts = x.unflatten(1, (patch, patch, 3))  # b, down, right, 3, h, w
        pixels: Tensor = self.conv_out(parts.permute(0, 3, 4, 1, 5, 2).flatten(4).flatten(2, 3))
        return pixels


class Table(nn.Module):
    """The vectors of MaskGIT's codes."""

    def __init__(self, size: int, dimensions: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(size, dimensions)


class TiTok(nn.Module):
    """Encoder, look-up and decoder; pixels are floats in 0..1, (B, 3, H, W), codes (B, T)."""

    def __init__(self, config: TiTokConfig) -> None:
        super().__init__()
        self.config = config
        self.latent_tokens = nn.Parameter(torch.empty(config.tokens, config.encoder.width))
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.quantize = LOOKUPS[config.lookup](config.codebook_size, config.code_dim)
        if config.pixel_decoder is not None:
            self.pixel_quantize = Table(config.pixel_codes, config.pixel_decoder.latent_channels)
            self.pixel_decoder = MaskgitDecoder(config.pixel_decoder)

    def latents(self, pixels: Tensor) -> Tensor:
        """Return latents (B, D, 1, T) of pixels."""
        latents: Tensor = self.encoder(pixels, self.latent_tokens)
        return latents

    def rebuild(self, codes: Tensor) -> Tensor:
        """Rebuild pixels from codes; floats may lie a little outside 0..1."""
        decoded: Tensor = self.decoder(self.quantize.vectors(codes[:, None]))
        if self.config.pixel_decoder is None:
            return decoded
        table = self.pixel_quantize.embedding.weight
        pixels: Tensor = self.pixel_decoder(torch.einsum("nkhw,kd->ndhw", decoded.softmax(1), table))
        return pixels


def recognise(shapes: Shapes, cosine: bool) -> TiTokConfig:
    """Return the config that a checkpoint's names and shapes imply; raise TokenizerError where none does."""
    label = "a TiTok"
    tokens, _ = shape_at(shapes, "latent_tokens", 2, label)
    codes, code_dim = shape_at(shapes, "quantize.embedding.weight", 2, label)
    encoder_patch = shape_at(shapes, "encoder.patch_embed.weight", 4, label)[2]
    by_codes = "decoder.ffn.2.weight" in shapes
    out = shape_at(shapes, "decoder.ffn.2.weight" if by_codes else "decoder.ffn.0.weight", 4, label)[0]
    decoder_patch = 0 if by_codes else math.isqrt(out // 3)
    if by_codes and not any(name.startswith("pixel_decoder.") for name in shapes):
        raise TokenizerError(
            "expected a TiTok with a decoder to pixels, found one of the first stage of training, which "
            "decodes to MaskGIT's codes alone; name the published checkpoint"
        )
    config = TiTokConfig(
        tokens,
        codes,
        code_dim,
        "cosine" if cosine else "euclidean",
        _half(shapes, "encoder", encoder_patch, label),
        _half(shapes, "decoder", decoder_patch, label),
        recognise_decoder(shapes, label, "pixel_decoder") if by_codes else None,
        out if by_codes else 0,
    )
    _check_sizes(config)
    return config


def _half(shapes: Shapes, half: str, patch: int, label: str) -> HalfShape:
    rows, width = shape_at(shapes, f"{half}.positional_embedding", 2, label)
    layers = numbers_in(shapes, rf"{half}\.transformer\.(\d+)\.")
    return HalfShape(width, len(layers), patch, math.isqrt(max(rows - 1, 0)))


def _check_sizes(config: TiTokConfig) -> None:
    halves = config.encoder, config.decoder
    if any(half.width % HEAD_WIDTH for half in halves):
        widths = [half.width for half in halves]
        raise TokenizerError(f"expected widths that are multiples of {HEAD_WIDTH}, found {widths}")
    for what, size, most in (
        ("channels", max(*(half.width for half in halves), config.code_dim), MOST_WIDTH),
        ("layers", max(half.layers for half in halves), MOST_LAYERS),
        ("places", max(config.tokens, *(half.grid**2 for half in halves)), MOST_TOKENS),
        ("codes", max(config.codebook_size, config.pixel_codes), MOST_CODES),
        ("pixels a patch", max(half.patch for half in halves), 64),
    ):
        if size > most:
            raise TokenizerError(f"expected at most {most:,} {what}, found {size:,}")
    decoded = config.decoder.grid * (
        config.decoder.patch if config.pixel_decoder is None else config.pixel_decoder.stride
    )
    if decoded != config.image_size or not config.image_size:
        raise TokenizerError(
            f"expected encoder and decoder of one image size, found {config.image_size} and {decoded} pixels"
        )


def build(values: Mapping[str, object], file_nbytes: int, cosine: bool) -> TiTok:
    """Return the network of a checkpoint's values by name.

    Raises TokenizerError, with lists of names, for values that are not exactly those of a TiTok.
    """
    used = {name: value for name, value in values.items() if name not in UNUSED}
    config = recognise(shapes_of(used), cosine)
    label = (
        f"{config.name} ({config.tokens} codes of {config.codebook_size:,}, widths {config.encoder.width} "
        f"and {config.decoder.width}, {config.encoder.layers} and {config.decoder.layers} layers)"
    )
    return fill(lambda: TiTok(config), used, file_nbytes, label)


class TiTokTokenizer(ImageTokenizer):
    """The Tokenizer over a TiTok; its positions are for images of one size only."""

    network: TiTok

    def __init__(self, model: TiTok) -> None:
        super().__init__(model)
        config = model.config
        self.name, self.image_size, self.stride = config.name, config.image_size, config.encoder.patch
        self.codebook_sizes = (config.codebook_size,)
        self.codebook = model.quantize.codebook
        head = f"{FORMAT}\n{json.dumps(asdict(config), sort_keys=True)}\npixels 0..1"
        self.fingerprint = weights_fingerprint(head, model.state_dict())

    @override
    def grid(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        expected = (3, self.image_size, self.image_size)
        if tuple(input_shape) != expected:
            raise TokenizerError(
                f"{self.name}: expected an image {expected}, the only size that it has positions for, "
                f"found {tuple(input_shape)}; resize to {self.image_size}x{self.image_size}"
            )
        return (self.network.config.tokens,)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Rebuild images (B, 3, H, W) uint8 from codes (B, T); raise TokenizerError for other codes."""
        tokens = self.network.config.tokens
        if tuple(codes.shape[1:]) != (tokens,):
            raise TokenizerError(f"{self.name}: expected codes (B, {tokens}), found {tuple(codes.shape)}")
        check_codes(self.name, codes[:, None], self.codebook_sizes)
        if not len(codes):
            shape = (0, 3, self.image_size, self.image_size)
            return torch.empty(shape, dtype=torch.uint8, device=self.device)
        return self.in_passes(self.decode_pass, codes.to(torch.int64))

    @override
    def encode_pass(self, images: Tensor) -> Tensor:
        return self.network.quantize.codes(self.network.latents(images.float() / 255))[:, 0]

    @override
    def decode_pass(self, codes: Tensor) -> Tensor:
        return to_images(self.network.rebuild(codes))


def _looks_up_by_cosine(folder: ModelFolder) -> bool:
    """Return what a folder's config says of the look-up; raise TokenizerError where it says nothing."""
    model = folder.config["model"]
    settings = model.get("vq_model") if isinstance(model, dict) else None
    value = settings.get("use_l2_norm") if isinstance(settings, dict) else None
    if not isinstance(value, bool):
        raise TokenizerError(
            f"{folder.where}: expected true or false in config.json as model.vq_model.use_l2_norm, found "
            f"{value!r}; name the folder of a TiTok"
        )
    mode = settings.get("quantize_mode", "vq") if isinstance(settings, dict) else "vq"
    if mode != "vq":
        raise TokenizerError(
            f"{folder.where}: expected a TiTok with codes, found one of quantize_mode {mode!r}"
        )
    return value


def load(argument: str | None) -> TiTokTokenizer:
    """Load the tokenizer of a folder, or of a hub id, with `config.json` and `model.safetensors`.

    Raises TokenizerError where there is no whole TiTok.
    """
    if not argument:
        raise TokenizerError("expected titok:FOLDER or HUB-ID, found neither")
    folder = open_model(argument, "model", None)
    cosine = _looks_up_by_cosine(folder)
    (path, *others) = weight_files(folder, "model")
    if others:
        raise TokenizerError(
            f"{folder.where}: expected model.safetensors, found it in {1 + len(others)} parts"
        )
    tokenizer = TiTokTokenizer(load_network(path, lambda values, nbytes: build(values, nbytes, cosine)))
    image = torch.zeros((1, 3, tokenizer.image_size, tokenizer.image_size), dtype=torch.uint8)
    try:
        tokenizer.decode(tokenizer.encode(image))
    except (RuntimeError, ValueError) as error:
        raise TokenizerError(
            f"{folder.where}: expected a TiTok of RGB images, found one that cannot take them "
            f"({reason(error)})"
        ) from error
    return tokenizer
