"""Open-MAGVIT2: codes that are signs, and images of them, against a slow re-statement."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.magvit_models import (
    TINY,
    random_checkpoint,
    slow_latents,
    slow_pixels,
    write_checkpoint,
)
from helpers.vqgan_models import images, random_weights
from safetensors.torch import save_file

from tokenstore.errors import TokenizerError
from tokenstore.format import ImplicitCodebook
from tokenstore.tokenizers.kinds.conv_vq import to_pixels
from tokenstore.tokenizers.kinds.open_magvit2 import (
    MagvitConfig,
    OpenMagvit2,
    OpenMagvit2Tokenizer,
    load,
    recognise,
)
from tokenstore.tokenizers.strict_weights import shapes_of


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> OpenMagvit2Tokenizer:
    return load(str(write_checkpoint(tmp_path_factory.mktemp("magvit") / "model.ckpt")))


def test_codes_and_images_are_those_of_a_slow_restatement(tokenizer: OpenMagvit2Tokenizer) -> None:
    weights = {name: tensor.double().numpy() for name, tensor in random_weights(OpenMagvit2(TINY)).items()}
    (image,) = images(1, 8, 6)
    latents = slow_latents(image.numpy(), weights, TINY)
    exact = copy.deepcopy(tokenizer.network).double()
    np.testing.assert_allclose(exact.encoder(image[None].double() / 127.5 - 1)[0], latents, atol=1e-8)
    np.testing.assert_allclose(tokenizer.network.encoder(to_pixels(image[None]))[0], latents, atol=1e-4)
    codes = tokenizer.encode(image[None])
    expected = sum((latents[bit] > 0).astype(int) << bit for bit in range(TINY.bits))
    np.testing.assert_array_equal(codes[0], expected)
    pixels = slow_pixels(np.where(latents > 0, 1.0, -1.0), weights, TINY)
    np.testing.assert_allclose(exact.rebuild(codes)[0], pixels, atol=1e-6)
    np.testing.assert_allclose(tokenizer.network.rebuild(codes)[0], pixels, atol=1e-4)
    np.testing.assert_allclose(tokenizer.decode(codes)[0], np.clip((pixels + 1) * 127.5, 0, 255), atol=0.52)


def test_it_has_an_implicit_codebook_and_the_averaged_weights(
    tokenizer: OpenMagvit2Tokenizer, tmp_path: Path
) -> None:
    assert tokenizer.codebook_sizes == (2**18,)
    assert tokenizer.implicit_codebook == ImplicitCodebook("lfq", (2,) * 18)
    assert tokenizer.name == "open-magvit2-f2-18bit"
    codes = tokenizer.encode(images(2))
    assert int(codes.max()) > 2**16
    vectors = tokenizer.network.signs.vectors(codes).permute(0, 2, 3, 1)
    np.testing.assert_array_equal(tokenizer.codebook[codes], vectors)
    save_file(random_checkpoint(), tmp_path / "averaged.safetensors")
    assert load(str(tmp_path / "averaged.safetensors")).fingerprint == tokenizer.fingerprint
    save_file(random_checkpoint(seed=1), tmp_path / "last.safetensors")
    assert load(str(tmp_path / "last.safetensors")).fingerprint != tokenizer.fingerprint


def test_images_of_one_position_are_refused(tokenizer: OpenMagvit2Tokenizer) -> None:
    with pytest.raises(TokenizerError, match="expected an image of two positions at least"):
        tokenizer.encode(images(1, 2, 2))


@pytest.mark.parametrize("config", [MagvitConfig(128, (128, 128, 256, 256, 512), 4, 18), TINY])
def test_sizes_follow_from_the_tensors(config: MagvitConfig) -> None:
    with torch.device("meta"):
        own = OpenMagvit2(config).state_dict()
    values = {name: torch.zeros(1).expand(tensor.shape) for name, tensor in own.items()}
    assert recognise(shapes_of(values)) == config


def test_its_names_are_those_of_the_published_files() -> None:
    names = set(random_checkpoint())
    assert {
        "encoder.conv_in.weight",
        "encoder.down.0.block.1.conv2.weight",
        "encoder.down.0.downsample.bias",
        "encoder.down.1.block.0.nin_shortcut.weight",
        "encoder.mid_block.1.norm1.weight",
        "encoder.conv_out.bias",
        "decoder.conv_in.bias",
        "decoder.adaptive.1.gamma.weight",
        "decoder.up.1.upsample.conv1.bias",
        "decoder.norm_out.weight",
    } <= names
    assert "encoder.conv_in.bias" not in names
    assert "decoder.up.0.block.0.conv1.bias" not in names
