"""ViT-VQGAN's arithmetic against a slow restatement in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from helpers.vit_vqgan_models import TINY, images, loaded, random_tensors

from tokenstore.tokenizers.kinds.vit_vqgan import ViTVQGANConfig, ViTVQGANTokenizer

Array = npt.NDArray[np.float64]


def layer_norm(x: Array, weights: dict[str, Array], name: str) -> Array:
    centred = x - x.mean(axis=1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(x: Array, weights: dict[str, Array], name: str) -> Array:
    return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", np.zeros(1))


def attention(x: Array, weights: dict[str, Array], name: str, heads: int) -> Array:
    mixed = []
    for head in range(heads):
        queries, keys, values = (
            linear(x, {"a.weight": rows[64 * head : 64 * (head + 1)]}, "a")
            for rows in np.split(weights[f"{name}.to_qkv.weight"], 3)
        )
        scores = np.exp(np.einsum("id,jd->ij", queries, keys) / np.sqrt(64))
        mixed.append(np.einsum("ij,jd->id", scores / scores.sum(axis=1, keepdims=True), values))
    return linear(np.concatenate(mixed, axis=1), weights, f"{name}.to_out")


def transformer(x: Array, weights: dict[str, Array], name: str, config: ViTVQGANConfig) -> Array:
    for layer in range(config.depth):
        first, second = f"{name}.layers.{layer}.0", f"{name}.layers.{layer}.1"
        x = x + attention(layer_norm(x, weights, f"{first}.norm"), weights, f"{first}.fn", config.heads)
        hidden = np.tanh(linear(layer_norm(x, weights, f"{second}.norm"), weights, f"{second}.fn.net.0"))
        x = x + linear(hidden, weights, f"{second}.fn.net.2")
    return layer_norm(x, weights, f"{name}.norm")


def slow_latents(image: Array, weights: dict[str, Array], config: ViTVQGANConfig) -> Array:
    """Return vectors (h * w, 32), not normalised, of an image (3, H, W) in 0..1."""
    rows = []
    for top in range(0, config.image_size, 8):
        for left in range(0, config.image_size, 8):
            patch = image[:, top : top + 8, left : left + 8]
            rows.append(np.einsum("chw,ochw->o", patch, weights["encoder.to_patch_embedding.0.weight"]))
    x = np.stack(rows) + weights["encoder.to_patch_embedding.0.bias"] + weights["encoder.en_pos_embedding"][0]
    return linear(transformer(x, weights, "encoder.transformer", config), weights, "pre_quant")


def slow_image(codes: npt.NDArray[np.int64], weights: dict[str, Array], config: ViTVQGANConfig) -> Array:
    """Return the image (3, H, W) of codes (h, w)."""
    table = weights["quantizer.embedding.weight"]
    vectors = np.stack([table[code] / np.sqrt((table[code] ** 2).sum()) for code in codes.ravel()])
    x = linear(vectors, weights, "post_quant") + weights["decoder.de_pos_embedding"][0]
    x = transformer(x, weights, "decoder.transformer", config)
    image = np.empty((3, config.image_size, config.image_size))
    for position, features in enumerate(x):
        top, left = 8 * (position // config.grid), 8 * (position % config.grid)
        patch = np.einsum("i,iohw->ohw", features, weights["decoder.to_pixel.1.weight"])
        image[:, top : top + 8, left : left + 8] = patch + weights["decoder.to_pixel.1.bias"][:, None, None]
    return image


def cosine_codes(latents: Array, table: Array) -> npt.NDArray[np.int64]:
    similarity = np.empty((len(latents), len(table)))
    for index, latent in enumerate(latents):
        similarity[index] = (table @ latent) / (np.linalg.norm(table, axis=1) * np.linalg.norm(latent))
    return similarity.argmax(axis=1)


@pytest.fixture(scope="module")
def weights() -> dict[str, Array]:
    return {name: tensor.double().numpy() for name, tensor in random_tensors().items()}


def test_latents_equal_a_slow_restatement(tokenizer: ViTVQGANTokenizer, weights: dict[str, Array]) -> None:
    batch = images(3)
    found = tokenizer.network.latents(batch.float() / 255).numpy()
    for image, latents in zip(batch, found, strict=True):
        expected = slow_latents(image.numpy() / 255, weights, TINY)
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(latents, expected, atol=1e-5)


def test_codes_are_the_nearest_by_cosine_similarity(
    tokenizer: ViTVQGANTokenizer, weights: dict[str, Array]
) -> None:
    batch = images(5)
    codes = tokenizer.encode(batch)
    assert len(codes.unique()) > 20
    for image, found in zip(batch, codes, strict=True):
        latents = slow_latents(image.numpy() / 255, weights, TINY)
        expected = cosine_codes(latents, weights["quantizer.embedding.weight"])
        assert np.array_equal(found.numpy(), expected.reshape(4, 4))


def test_rebuilt_images_equal_a_slow_restatement(
    tokenizer: ViTVQGANTokenizer, weights: dict[str, Array]
) -> None:
    codes = torch.randint(0, 8192, (3, 4, 4), generator=torch.Generator().manual_seed(0))
    found = tokenizer.network.rebuild(codes).numpy()
    decoded = tokenizer.decode(codes).numpy()
    for index, sample in enumerate(codes.numpy()):
        expected = slow_image(sample, weights, TINY)
        np.testing.assert_allclose(found[index], expected, atol=1e-5)
        levels = np.clip(expected * 255, 0, 255)
        np.testing.assert_allclose(decoded[index], levels, atol=0.502)
        assert (expected < 0).any()
        assert (expected > 1).any()


def test_only_the_direction_of_the_codebooks_rows_counts(tmp_path: Path) -> None:
    tensors = random_tensors()
    plain = loaded(tmp_path / "a.pt", tensors)
    lengths = 0.1 + 5 * torch.rand(8192, 1, generator=torch.Generator().manual_seed(0))
    scaled = tensors | {"quantizer.embedding.weight": tensors["quantizer.embedding.weight"] * lengths}
    other = loaded(tmp_path / "b.pt", scaled)
    codes = plain.encode(images(3))
    assert torch.equal(other.encode(images(3)), codes)
    np.testing.assert_allclose(other.codebook, plain.codebook, atol=1e-6)
