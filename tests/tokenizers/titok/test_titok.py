"""TiTok, to MaskGIT's codes and to pixels, against a slow re-statement; and folders that hold none."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.titok_models import (
    BY_CODES,
    BY_PIXELS,
    published,
    random_checkpoint,
    settings,
    slow_codes,
    slow_image,
    slow_latents,
    write_folder,
)
from helpers.vqgan_models import images, random_weights
from helpers.wrong_checkpoints import WRONG
from safetensors.torch import load_file, save_file
from torch import Tensor

from tokenstore.errors import TokenizerError
from tokenstore.tokenizers.kinds.titok import TiTok, TiTokConfig, load, recognise
from tokenstore.tokenizers.strict_weights import shapes_of

WEIGHTS = "model.safetensors"


@pytest.mark.parametrize("config", [BY_CODES, BY_PIXELS], ids=["to codes", "to pixels"])
def test_codes_and_images_are_those_of_a_slow_restatement(config: TiTokConfig, tmp_path: Path) -> None:
    tokenizer = load(str(write_folder(tmp_path / "model", config)))
    assert tokenizer.network.config == config
    weights = {name: tensor.double().numpy() for name, tensor in random_weights(TiTok(config)).items()}
    batch = images(2, 32, 32)
    codes = tokenizer.encode(batch)
    assert codes.shape == (2, 6)
    exact = copy.deepcopy(tokenizer.network).double()
    for image, row in zip(batch, codes, strict=True):
        latents = slow_latents(image.numpy(), weights, config)
        np.testing.assert_allclose(exact.latents(image[None].double() / 255)[0, :, 0], latents, atol=1e-8)
        fast = tokenizer.network.latents(image[None].float() / 255)[0, :, 0]
        np.testing.assert_allclose(fast, latents, atol=1e-4)
        np.testing.assert_array_equal(row, slow_codes(latents, weights, config))
    pixels = slow_image(codes[0].numpy(), weights, config)
    np.testing.assert_allclose(exact.rebuild(codes[:1])[0], pixels, atol=1e-6)
    np.testing.assert_allclose(tokenizer.network.rebuild(codes[:1])[0], pixels, atol=1e-4)
    np.testing.assert_allclose(tokenizer.decode(codes)[0], np.clip(255 * pixels, 0, 255), atol=0.52)


def test_images_and_codes_of_other_shapes_are_refused(tmp_path: Path) -> None:
    tokenizer = load(str(write_folder(tmp_path / "model")))
    assert tokenizer.grid((3, 32, 32)) == (6,)
    with pytest.raises(TokenizerError, match=r"only size .* found \(3, 32, 64\); resize to 32x32"):
        tokenizer.encode(images(1, 32, 64))
    with pytest.raises(TokenizerError, match=r"expected codes \(B, 6\), found \(1, 5\)"):
        tokenizer.decode(torch.zeros(1, 5, dtype=torch.int64))
    with pytest.raises(TokenizerError, match=r"0\.\.39, found 0\.\.40"):
        tokenizer.decode(torch.tensor([[0, 1, 2, 3, 4, 40]]))
    assert tokenizer.decode(torch.zeros(0, 6, dtype=torch.uint8)).shape == (0, 3, 32, 32)
    assert tokenizer.encode(images(0, 32, 32)).shape == (0, 6)


@pytest.mark.parametrize(
    ("name", "tokens", "encoder", "decoder"),
    [
        ("titok-l-32", 32, "l", "l"),
        ("titok-b-64", 64, "b", "b"),
        ("titok-s-128", 128, "s", "s"),
        ("titok-bl-64", 64, "b", "l"),
        ("titok-bl-128", 128, "b", "l"),
        ("titok-sl-256", 256, "s", "l"),
    ],
)
def test_published_models_are_recognised_by_their_shapes(
    name: str, tokens: int, encoder: str, decoder: str
) -> None:
    config = published(tokens, encoder, decoder)
    with torch.device("meta"):
        own = TiTok(config).state_dict()
    shapes = shapes_of({key: torch.zeros(1).expand(tensor.shape) for key, tensor in own.items()})
    assert recognise(shapes, cosine=config.lookup == "cosine") == config
    assert config.name == name
    assert config.image_size == 256
    assert shapes["encoder.transformer.0.attn.in_proj_weight"] == (
        3 * config.encoder.width,
        config.encoder.width,
    )
    assert shapes["encoder.transformer.0.mlp.c_fc.bias"] == (4 * config.encoder.width,)
    assert shapes["decoder.mask_token"] == (1, 1, config.decoder.width)


def test_the_look_up_of_the_config_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model")
    cosine = load(str(folder))
    (folder / "config.json").write_text(json.dumps(settings(cosine=False)))
    euclidean = load(str(folder))
    assert euclidean.network.quantize.kind == "euclidean"
    assert euclidean.fingerprint != cosine.fingerprint


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model": {"vq_model": {}}}, "expected true or false in config.json as model.vq_model.use_l2_norm"),
        ({"model": 3}, "use_l2_norm, found None"),
        ({"model_type": "bert"}, r"expected a config with model in it, found None in config\.json"),
        (settings(True, quantize_mode="vae"), "a TiTok with codes, found one of quantize_mode 'vae'"),
    ],
)
def test_configs_of_other_models_are_refused(config: object, message: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model")
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(TokenizerError, match=message):
        load(str(folder))


def without_pixel_decoder(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("pixel_")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_pixel_decoder, "of the first stage of training, which decodes to MaskGIT's codes alone"),
        (lambda tensors: {"a": torch.ones(2)}, "expected a TiTok, whose sizes follow from latent_tokens"),
        (lambda tensors: tensors | {"extra": torch.ones(2)}, "1 unexpected: extra$"),
        (
            lambda tensors: {name: tensors[name] for name in tensors if name != "decoder.ln_pre.bias"},
            r"expected the \d+ tensors of titok-6 .*\n  1 missing: decoder\.ln_pre\.bias$",
        ),
        (
            lambda tensors: tensors | {"decoder.positional_embedding": torch.ones(17, 64)},
            "expected encoder and decoder of one image size, found 32 and 8 pixels",
        ),
        (
            lambda tensors: tensors | {"encoder.positional_embedding": torch.ones(17, 96)},
            r"expected widths that are multiples of 64, found \[96, 64\]",
        ),
        (
            lambda tensors: tensors | {"latent_tokens": tensors["latent_tokens"] * torch.nan},
            "found NaN or infinity in 1: latent_tokens$",
        ),
        (
            lambda tensors: tensors | {"decoder.ln_pre.bias": torch.ones(64, dtype=torch.int32)},
            r"1 not a dense tensor of floats: decoder\.ln_pre\.bias \(torch\.int32\)$",
        ),
    ],
)
def test_weights_of_other_models_are_refused(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]], message: str, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "model")
    save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS)
    with pytest.raises(TokenizerError, match=rf"^{folder / WEIGHTS}: (?s:.*){message}"):
        load(str(folder))


@pytest.mark.parametrize("wrong", ["a pickle with code", "cut off", "empty", "text"])
def test_files_that_are_no_safetensors_are_refused(wrong: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model")
    write, _ = WRONG[wrong]
    (folder / WEIGHTS).unlink()
    write(folder / WEIGHTS, random_checkpoint())
    with pytest.raises(TokenizerError, match=rf"{WEIGHTS}: expected a (safetensors file|checkpoint)"):
        load(str(folder))
    assert not (tmp_path / "model" / "ran").exists()


def test_folders_without_weights_or_config_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="expected titok:FOLDER or HUB-ID, found neither"):
        load(None)
    folder = write_folder(tmp_path / "model")
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    with pytest.raises(
        TokenizerError, match=rf"expected weights {WEIGHTS}, found pytorch_model\.bin; pickles"
    ):
        load(str(folder))
    (folder / "config.json").unlink()
    with pytest.raises(TokenizerError, match=r"expected config\.json, found pytorch_model\.bin"):
        load(str(folder))
