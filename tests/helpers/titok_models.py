"""Tiny TiToks of random weights, in folders as they are published, and their slow re-statement."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch import Tensor

from helpers.maskgit_models import SHAPE, slow_pixels
from helpers.slow_networks import Array, Weights, conv, layer_norm, softmax
from helpers.vqgan_models import random_weights
from tokenstore.tokenizers.kinds.maskgit_vqgan import MaskgitShape
from tokenstore.tokenizers.kinds.titok import HalfShape, TiTok, TiTokConfig

BY_CODES = TiTokConfig(
    tokens=6,
    codebook_size=40,
    code_dim=5,
    lookup="cosine",
    encoder=HalfShape(width=128, layers=1, patch=8, grid=4),
    decoder=HalfShape(width=64, layers=2, patch=0, grid=16),
    pixel_decoder=SHAPE,
    pixel_codes=24,
)
"""A model like L-32: its decoder gives logits of MaskGIT's codes."""
BY_PIXELS = replace(
    BY_CODES,
    lookup="euclidean",
    decoder=HalfShape(width=64, layers=2, patch=4, grid=8),
    pixel_decoder=None,
    pixel_codes=0,
)
"""A model like BL-64: its decoder gives pixels."""


def random_checkpoint(config: TiTokConfig = BY_CODES, seed: int = 0) -> dict[str, Tensor]:
    """Draw the tensors of a checkpoint, and one that no code depends on."""
    return random_weights(TiTok(config), seed) | {"quantize.embed_prob": torch.ones(3)}


def settings(cosine: bool, **changes: object) -> dict[str, object]:
    """Return the part of a published config that is read, and more that is not."""
    model = {"codebook_size": 7, "use_l2_norm": cosine, "vit_enc_model_size": "large", **changes}
    return {"model": {"vq_model": model}, "dataset": {"preprocessing": {"crop_size": 256}}}


def write_folder(folder: Path, config: TiTokConfig = BY_CODES) -> Path:
    """Write a random model as it is published, and return its folder."""
    folder.mkdir()
    save_file(random_checkpoint(config), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(settings(config.lookup == "cosine")))
    return folder


def _linear(x: Array, weights: Weights, name: str) -> Array:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def _gelu(x: Array) -> Array:
    return x * (1 + torch.erf(torch.from_numpy(x) / 2**0.5).numpy()) / 2


def _layers(x: Array, weights: Weights, half: str, count: int) -> Array:
    """Return rows (N, width) behind the layers, head by head."""
    x = layer_norm(x, weights, f"{half}.ln_pre")
    width = x.shape[1]
    for layer in range(count):
        name = f"{half}.transformer.{layer}"
        rows = layer_norm(x, weights, f"{name}.ln_1")
        joint = rows @ weights[f"{name}.attn.in_proj_weight"].T + weights[f"{name}.attn.in_proj_bias"]
        q, k, v = joint[:, :width], joint[:, width : 2 * width], joint[:, 2 * width :]
        heads = []
        for first in range(0, width, 64):
            part = slice(first, first + 64)
            heads.append(softmax(q[:, part] @ k[:, part].T / 8) @ v[:, part])
        x = x + _linear(np.concatenate(heads, axis=1), weights, f"{name}.attn.out_proj")
        hidden = _gelu(_linear(layer_norm(x, weights, f"{name}.ln_2"), weights, f"{name}.mlp.c_fc"))
        x = x + _linear(hidden, weights, f"{name}.mlp.c_proj")
    return x


def slow_latents(image: npt.NDArray[np.uint8], weights: Weights, config: TiTokConfig) -> Array:
    """Return latents (D, T) of an image (3, H, W)."""
    half = config.encoder
    patches = conv(image / 255, weights, "encoder.patch_embed", stride=half.patch, pads=(0, 0))
    rows = np.concatenate([weights["encoder.class_embedding"], patches.reshape(half.width, -1).T])
    rows = rows + weights["encoder.positional_embedding"]
    tokens = weights["latent_tokens"] + weights["encoder.latent_token_positional_embedding"]
    x = _layers(np.concatenate([rows, tokens]), weights, "encoder", half.layers)
    x = layer_norm(x[-config.tokens :], weights, "encoder.ln_post")
    # the first models read the numbers of (T, width) in their order as (width, T)
    columns = x.T if config.pixel_decoder is None else x.ravel().reshape(half.width, config.tokens)
    return (
        weights["encoder.conv_out.weight"][:, :, 0, 0] @ columns + weights["encoder.conv_out.bias"][:, None]
    )


def slow_codes(latents: Array, weights: Weights, config: TiTokConfig) -> npt.NDArray[np.int64]:
    """Return codes (T,) of latents (D, T)."""
    table = weights["quantize.embedding.weight"]
    if config.lookup == "cosine":
        table = table / np.linalg.norm(table, axis=1, keepdims=True)
        latents = latents / np.linalg.norm(latents, axis=0)
    return np.array([((table - z) ** 2).sum(1).argmin() for z in latents.T])


def slow_image(codes: npt.NDArray[np.int64], weights: Weights, config: TiTokConfig) -> Array:
    """Return pixels (3, H, W) about 0..1 of codes (T,)."""
    half, table = config.decoder, weights["quantize.embedding.weight"]
    if config.lookup == "cosine":
        table = table / np.linalg.norm(table, axis=1, keepdims=True)
    tokens = _linear(table[codes], weights, "decoder.decoder_embed")
    masks = np.repeat(weights["decoder.mask_token"][0], half.grid**2, axis=0)
    rows = np.concatenate([weights["decoder.class_embedding"], masks])
    rows = rows + weights["decoder.positional_embedding"]
    tokens = tokens + weights["decoder.latent_token_positional_embedding"]
    x = _layers(np.concatenate([rows, tokens]), weights, "decoder", half.layers)
    x = layer_norm(x[1 : 1 + half.grid**2], weights, "decoder.ln_post")
    grid = x.T.reshape(half.width, half.grid, half.grid)
    if config.pixel_decoder is None:
        parts = conv(grid, weights, "decoder.ffn.0")
        pixels = np.empty((3, half.grid * half.patch, half.grid * half.patch))
        for down in range(half.patch):
            for right in range(half.patch):
                first = 3 * (down * half.patch + right)
                pixels[:, down :: half.patch, right :: half.patch] = parts[first : first + 3]
        return conv(pixels, weights, "decoder.conv_out")
    logits = conv(np.tanh(conv(grid, weights, "decoder.ffn.0")), weights, "decoder.ffn.2")
    shares = softmax(logits.reshape(len(logits), -1).T)
    vectors = (shares @ weights["pixel_quantize.embedding.weight"]).T
    return slow_pixels(vectors.reshape(-1, half.grid, half.grid), weights, "pixel_decoder")


PUBLISHED_PIXELS = MaskgitShape(128, (128, 128, 256, 256, 512), 2, 256)


def published(tokens: int, encoder: str, decoder: str) -> TiTokConfig:
    """Return the config of a published size: the widths by letter."""
    widths, depths = {"s": 512, "b": 768, "l": 1024}, {"s": 8, "b": 12, "l": 24}
    by_codes = encoder == decoder
    return TiTokConfig(
        tokens=tokens,
        codebook_size=4096 if by_codes else 8192,
        code_dim=12 if by_codes else 64,
        lookup="cosine" if by_codes else "euclidean",
        encoder=HalfShape(widths[encoder], depths[encoder], 16, 16),
        decoder=HalfShape(widths[decoder], depths[decoder], 0 if by_codes else 16, 16),
        pixel_decoder=PUBLISHED_PIXELS if by_codes else None,
        pixel_codes=1024 if by_codes else 0,
    )
