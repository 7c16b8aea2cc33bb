"""Continuous autoencoders: the latents of each class, and the tokenizer of a codebook learned over them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.autoencoder_models import SIZE, SMALL, fit, make_kl, make_tiny, smooth_images

from tokenstore.errors import TokenizerError
from tokenstore.sources.base import ImageSplit
from tokenstore.tokenizers import load_tokenizer
from tokenstore.tokenizers.kinds.autoencoder import (
    Autoencoder,
    AutoencoderTokenizer,
    load_autoencoder,
    write_codebook,
)

# ---- autoencoders


@pytest.mark.parametrize(("name", "stride", "channels"), [("kl", 4, 4), ("tiny", 4, 4), ("dc", 2, 2)])
def test_each_class_gives_latents_of_its_stride(
    models: dict[str, Path], name: str, stride: int, channels: int
) -> None:
    autoencoder = load_autoencoder(str(models[name]))
    latents = autoencoder.latents(smooth_images(2))
    assert (autoencoder.stride, autoencoder.channels) == (stride, channels)
    assert latents.shape == (2, channels, SIZE // stride, SIZE // stride)
    assert autoencoder.images(latents).shape == (2, 3, SIZE, SIZE)
    assert not any(weight.requires_grad for weight in autoencoder.parameters())


@torch.no_grad()
def test_latents_of_a_posterior_are_its_mean_of_pixels_from_minus_one_to_one(
    models: dict[str, Path],
) -> None:
    autoencoder, images = load_autoencoder(str(models["kl"])), smooth_images(3)
    model = autoencoder.model
    moments = model.quant_conv(model.encoder(images / 127.5 - 1))
    torch.testing.assert_close(autoencoder.latents(images), moments[:, :4])
    pixels = model.decoder(model.post_quant_conv(moments[:, :4])) * 127.5 + 127.5
    expected = pixels.round().clamp(0, 255)
    assert (autoencoder.images(moments[:, :4]) - expected).abs().max() <= 1


@torch.no_grad()
def test_a_tiny_autoencoder_sees_pixels_from_zero_to_one(models: dict[str, Path]) -> None:
    autoencoder, images = load_autoencoder(str(models["tiny"])), smooth_images(3)
    model = autoencoder.model
    latents = model.encoder.layers(images / 255)
    torch.testing.assert_close(autoencoder.latents(images), latents)
    expected = (model.decoder.layers(3 * torch.tanh(latents / 3)) * 255).round().clamp(0, 255)
    assert (autoencoder.images(latents) - expected).abs().max() <= 1


def test_an_autoencoder_inside_a_pipeline_is_found(models: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(models["kl"], tmp_path / "pipeline" / "vae")
    (tmp_path / "pipeline" / "model_index.json").write_text("{}")
    found = load_autoencoder(str(tmp_path / "pipeline"))
    assert found.fingerprint == load_autoencoder(str(models["kl"])).fingerprint


def test_loading_draws_nothing_from_the_global_generator(models: dict[str, Path]) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    load_autoencoder(str(models["kl"]))
    assert torch.equal(torch.rand(3), expected)


def test_other_classes_and_other_images_are_refused(models: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(models["kl"], tmp_path / "other")
    config = tmp_path / "other" / "config.json"
    config.write_text(config.read_text().replace("AutoencoderKL", "UNet2DModel"))
    with pytest.raises(TokenizerError, match="AutoencoderKL or AutoencoderTiny, found 'UNet2DModel'"):
        load_autoencoder(str(tmp_path / "other"))
    make_kl(in_channels=4, out_channels=4).save_pretrained(tmp_path / "rgba")
    with pytest.raises(TokenizerError, match="expected an autoencoder of RGB images"):
        load_autoencoder(str(tmp_path / "rgba"))
    make_tiny(upsampling_scaling_factor=1).save_pretrained(tmp_path / "smaller")
    with pytest.raises(TokenizerError, match="expected latents and an image of shapes"):
        load_autoencoder(str(tmp_path / "smaller"))


def test_only_what_decides_codes_is_in_the_fingerprint(models: dict[str, Path], tmp_path: Path) -> None:
    expected = load_autoencoder(str(models["kl"])).fingerprint
    for name, changes, same in (
        ("scaled", {"scaling_factor": 0.5, "sample_size": 64}, True),
        ("renamed", {"a_field_of_later_versions": 1}, True),
        ("grouped", {"norm_num_groups": 8}, False),
    ):
        shutil.copytree(models["kl"], tmp_path / name)
        config = json.loads((tmp_path / name / "config.json").read_text())
        (tmp_path / name / "config.json").write_text(json.dumps(config | changes))
        assert (load_autoencoder(str(tmp_path / name)).fingerprint == expected) == same


# ---- the tokenizer


OPTIONS = {
    "nearest": (SMALL, "autoencoder-kl-k32", (8, 8), (32, 4)),
    "residual": (
        replace(SMALL, codebook_size=16, codebooks=3),
        "autoencoder-kl-3xk16",
        (3, 8, 8),
        (3, 16, 4),
    ),
    "fsq": (replace(SMALL, levels=(4, 5, 2, 3)), "autoencoder-kl-fsq4x5x2x3", (8, 8), (120, 4)),
}


@pytest.mark.parametrize("kind", OPTIONS)
def test_what_was_fitted_is_a_tokenizer_that_loads_again(
    split: ImageSplit, models: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    options, name, grid, shape = OPTIONS[kind]
    tokenizer = fit(split, models["kl"], options)
    images = smooth_images(8)
    codes = tokenizer.encode(images)
    assert tokenizer.name == name
    assert tokenizer.image_size == SIZE
    assert codes.shape == (8, *grid) == (8, *tokenizer.grid((3, SIZE, SIZE)))
    assert tokenizer.codebook is not None
    assert tokenizer.codebook.shape == shape
    rebuilt = tokenizer.decode(codes)
    assert rebuilt.shape == images.shape
    assert rebuilt.dtype == torch.uint8
    write_codebook(tokenizer, tmp_path / "book.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["book.safetensors"]
    loaded = load_tokenizer(f"autoencoder:{tmp_path / 'book.safetensors'}")
    assert (loaded.name, loaded.fingerprint) == (name, tokenizer.fingerprint)
    assert (loaded.codebook_sizes, loaded.image_size) == (tokenizer.codebook_sizes, SIZE)
    np.testing.assert_array_equal(loaded.codebook, tokenizer.codebook)
    assert torch.equal(loaded.encode(images), codes)
    assert torch.equal(loaded.decode(codes), rebuilt)


@pytest.mark.parametrize("name", ["kl", "tiny", "dc"])
def test_codes_do_not_depend_on_the_batch(split: ImageSplit, models: dict[str, Path], name: str) -> None:
    tokenizer, images = fit(split, models[name]), smooth_images(9)
    expected = tokenizer.encode(images)
    for size in (1, 7):
        parts = [tokenizer.encode(part) for part in images.split(size)]
        assert torch.equal(torch.cat(parts), expected)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    assert torch.equal(tokenizer.encode(images[order]), expected[order])


def test_other_sizes_are_encoded_and_others_refused(fitted: AutoencoderTokenizer) -> None:
    assert fitted.encode(smooth_images(1, 64)[:, :, :40]).shape == (1, 10, 16)
    with pytest.raises(TokenizerError, match="multiples of 4, found"):
        fitted.encode(smooth_images(1)[:, :, :30])
    with pytest.raises(TokenizerError, match=r"codes in 0\.\.31"):
        fitted.decode(torch.full((1, 2, 2), 32))


def test_the_fingerprint_covers_autoencoder_and_codebook(
    split: ImageSplit, fitted: AutoencoderTokenizer, models: dict[str, Path], tmp_path: Path
) -> None:
    network = fitted.network
    assert network.autoencoder.tokenizer(network.quantiser, 64).fingerprint == fitted.fingerprint
    make_kl(scaling_factor=2.0).save_pretrained(tmp_path / "same")
    same = load_autoencoder(str(tmp_path / "same"))
    assert same.tokenizer(network.quantiser, SIZE).fingerprint == fitted.fingerprint
    other = Autoencoder(make_tiny(), "other").tokenizer(network.quantiser, SIZE)
    assert other.fingerprint != fitted.fingerprint
    levels = [
        fit(split, models["kl"], replace(SMALL, levels=levels)) for levels in ((2, 4, 2, 2), (4, 2, 2, 2))
    ]
    assert levels[0].fingerprint != levels[1].fingerprint


def test_an_autoencoder_of_other_channels_is_refused(
    fitted: AutoencoderTokenizer, models: dict[str, Path]
) -> None:
    with pytest.raises(TokenizerError, match=r"expected latents of 4 channels, .*found 2"):
        load_autoencoder(str(models["dc"])).tokenizer(fitted.network.quantiser, SIZE)
