"""The VQ models of transformers: the codes and images of the library, for images and video."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.transformers_models import (
    CODES,
    CONFIGS,
    FAMILIES,
    FRAMES,
    STRIDE,
    TOKENIZERS,
    build,
    library_codes,
    noise,
)

transformers = pytest.importorskip("transformers")

from tokenstore.errors import TokenizerError  # noqa: E402
from tokenstore.tokenizers import load_tokenizer  # noqa: E402
from tokenstore.tokenizers.kinds.transformers_vq import TransformersVQTokenizer, load  # noqa: E402


def as_images(pixels: torch.Tensor) -> torch.Tensor:
    return ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def assert_same_images(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Check that images are equal but for levels that the last bit of a float tips."""
    assert found.dtype == torch.uint8
    assert found.shape == expected.shape
    assert found.unique().numel() > 20
    difference = found.int() - expected.int()
    assert difference.abs().max() <= 1
    assert (difference == 0).float().mean() > 0.999


# ---- images


@pytest.mark.parametrize(("family", "side"), [("chameleon", 32), ("janus", 24), ("emu3", 256)])
def test_a_tokenizer_says_what_its_config_says(
    saved: Path, models: dict[str, Any], family: str, side: int
) -> None:
    tokenizer = load_tokenizer(f"transformers:{saved / family}")
    assert type(tokenizer) is TOKENIZERS[family]
    assert tokenizer.name == f"{family}-vq"
    assert tokenizer.codebook_sizes == (CODES,)
    assert tokenizer.image_size == side
    assert tokenizer.grid((3, 32, 64)) == (8, 16)
    assert tokenizer.codebook is not None
    assert tokenizer.codebook.dtype == np.float32
    assert np.array_equal(tokenizer.codebook, models[family].quantize.embedding.weight.detach().numpy())
    assert tokenizer.dtype == torch.float32
    assert not tokenizer.network.training


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("height", "width"), [(24, 24), (16, 40), (40, 16)])
def test_codes_are_those_of_the_library(
    tokenizers: dict[str, TransformersVQTokenizer],
    models: dict[str, Any],
    family: str,
    height: int,
    width: int,
) -> None:
    images = noise(3, 3, height, width, seed=1)
    codes = tokenizers[family].encode(images)
    assert codes.dtype == torch.int64
    assert codes.shape == (3, height // STRIDE, width // STRIDE)
    assert torch.equal(codes, library_codes(family, models[family], images))
    assert codes.unique().numel() > 30


@pytest.mark.parametrize("family", FAMILIES)
def test_codes_do_not_depend_on_the_batch_its_order_or_threads(
    saved: Path, tokenizers: dict[str, TransformersVQTokenizer], family: str
) -> None:
    tokenizer, images = tokenizers[family], noise(7, 3, 16, 24, seed=2)
    alone = torch.cat([tokenizer.encode(image) for image in images.split(1)])
    assert torch.equal(tokenizer.encode(images), alone)
    order = torch.tensor([4, 0, 6, 2, 1, 5, 3])
    assert torch.equal(tokenizer.encode(images[order]), alone[order])
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        threaded = load(str(saved / family))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(threaded.encode(images), alone)


def test_janus_decodes_as_the_library_and_other_sides_too(
    tokenizers: dict[str, TransformersVQTokenizer], models: dict[str, Any]
) -> None:
    tokenizer, model = tokenizers["janus"], models["janus"]
    codes = tokenizer.encode(noise(2, 3, 24, 24, seed=3))
    with torch.no_grad():
        expected = torch.cat([model.decode(grid.flatten(1)) for grid in codes.split(1)])
    assert_same_images(tokenizer.decode(codes), as_images(expected))
    larger = build("janus", num_patches=10)
    larger.load_state_dict(model.state_dict())
    codes = tokenizer.encode(noise(1, 3, 40, 40, seed=3))
    with torch.no_grad():
        expected = larger.decode(codes.flatten(1))
    assert_same_images(tokenizer.decode(codes), as_images(expected))
    assert tokenizer.decode(codes[:, :3]).shape == (1, 3, 12, 40)


def test_emu3_decodes_images_as_the_library(
    tokenizers: dict[str, TransformersVQTokenizer], models: dict[str, Any]
) -> None:
    codes = tokenizers["emu3"].encode(noise(2, 3, 24, 16, seed=3))
    with torch.no_grad():
        expected = torch.cat([models["emu3"].decode(grid) for grid in codes.split(1)])
    assert_same_images(tokenizers["emu3"].decode(codes), as_images(expected))


def test_chameleon_has_no_decoder(tokenizers: dict[str, TransformersVQTokenizer]) -> None:
    for codes in (torch.zeros((1, 2, 2), dtype=torch.int64), torch.zeros((0, 2, 2), dtype=torch.int64)):
        with pytest.raises(
            TokenizerError, match="chameleon-vq: expected a model with a decoder, found Chameleon's"
        ):
            tokenizers["chameleon"].decode(codes)


@pytest.mark.parametrize("family", FAMILIES)
def test_images_of_other_sides_are_refused(
    tokenizers: dict[str, TransformersVQTokenizer], family: str
) -> None:
    with pytest.raises(TokenizerError, match=r"multiples of 4, found \(24, 26\)"):
        tokenizers[family].encode(noise(1, 3, 24, 26))
    with pytest.raises(TokenizerError, match="uint8, found"):
        tokenizers[family].encode(torch.zeros(1, 3, 24, 24))


# ---- video


def test_video_is_encoded_and_decoded_as_by_the_library(
    tokenizers: dict[str, TransformersVQTokenizer], models: dict[str, Any]
) -> None:
    tokenizer, video = tokenizers["emu3"], noise(2, 6, 3, 16, 24, seed=4)
    codes = tokenizer.encode(video)
    assert codes.dtype == torch.int64
    assert codes.shape == (2, 3, 4, 6) == (2, *tokenizer.grid((6, 3, 16, 24)))
    assert torch.equal(codes, library_codes("emu3", models["emu3"], video))
    assert codes.unique().numel() > 20
    with torch.no_grad():
        expected = torch.cat([models["emu3"].decode(grid) for grid in codes.split(1)])
    rebuilt = tokenizer.decode(codes)
    assert rebuilt.shape == video.shape
    assert_same_images(rebuilt, as_images(expected))
    assert torch.equal(tokenizer.decode(codes.to(torch.int16)), rebuilt)
    assert torch.equal(tokenizer.encode(video[[1]]), codes[[1]])


def test_upright_and_long_video_keeps_all_its_codes(
    tokenizers: dict[str, TransformersVQTokenizer], models: dict[str, Any]
) -> None:
    """Compare with codes from before the library's own encode cuts both."""
    tokenizer, model, video = tokenizers["emu3"], models["emu3"], noise(1, 10, 3, 16, 8, seed=5)
    codes = tokenizer.encode(video)
    assert codes.shape == (1, 5, 4, 2)
    uncut = []
    handle = model.quantize.register_forward_hook(lambda module, inputs, output: uncut.append(output))
    cut = library_codes("emu3", model, video)
    handle.remove()
    assert cut.shape == (1, 4, 2, 2)
    assert torch.equal(codes, uncut[0])
    assert tokenizer.decode(codes).shape == video.shape


def test_an_image_is_a_film_of_equal_frames(tokenizers: dict[str, TransformersVQTokenizer]) -> None:
    tokenizer, images = tokenizers["emu3"], noise(2, 3, 16, 16, seed=6)
    film = images[:, None].expand(-1, FRAMES, -1, -1, -1)
    assert torch.equal(tokenizer.encode(film)[:, 0], tokenizer.encode(images))
    codes = tokenizer.encode(images)
    assert torch.equal(tokenizer.decode(codes[:, None])[:, 0], tokenizer.decode(codes))


def test_empty_batches_stay_empty(tokenizers: dict[str, TransformersVQTokenizer]) -> None:
    codes = tokenizers["emu3"].encode(torch.zeros((0, 4, 3, 16, 8), dtype=torch.uint8))
    assert codes.shape == (0, 2, 4, 2)
    assert codes.dtype == torch.int64
    assert tokenizers["emu3"].decode(codes).shape == (0, 4, 3, 16, 8)
    assert tokenizers["janus"].decode(tokenizers["janus"].encode(noise(0, 3, 8, 4))).shape == (0, 3, 8, 4)


def test_video_that_does_not_fit_is_refused(tokenizers: dict[str, TransformersVQTokenizer]) -> None:
    with pytest.raises(TokenizerError, match="frames of a video to be a multiple of 2, found 3"):
        tokenizers["emu3"].encode(noise(1, 3, 3, 16, 16))
    with pytest.raises(TokenizerError, match="frames of a video to be a multiple of 2, found 0"):
        tokenizers["emu3"].encode(noise(1, 0, 3, 16, 16))
    with pytest.raises(TokenizerError, match=r"multiples of 4, found \(16, 18\)"):
        tokenizers["emu3"].encode(noise(1, 2, 3, 16, 18))
    with pytest.raises(TokenizerError, match="uint8, found"):
        tokenizers["emu3"].encode(torch.zeros(1, 2, 3, 16, 16))
    with pytest.raises(TokenizerError, match=r"0\.\.95, found 96\.\.96"):
        tokenizers["emu3"].decode(torch.full((1, 1, 2, 2), CODES))
    with pytest.raises(TokenizerError, match=r"\(B, 3, H, W\) uint8, found \(1, 2, 3, 16, 16\)"):
        tokenizers["janus"].encode(noise(1, 2, 3, 16, 16))


def test_models_of_frames_that_are_no_power_of_two_are_refused(tmp_path: Path) -> None:
    transformers.Emu3VQVAE(CONFIGS["emu3"](temporal_downsample_factor=3)).save_pretrained(tmp_path)
    with pytest.raises(TokenizerError, match="cannot take them"):
        load(str(tmp_path))


def test_on_a_gpu_each_image_is_a_pass_of_its_own_compiled_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = TOKENIZERS["chameleon"](build("chameleon"), TOKENIZERS["chameleon"].published)
    monkeypatch.setattr(type(tokenizer), "device", torch.device("meta"))
    passes: list[int] = []
    monkeypatch.setattr(tokenizer, "_as_compiled", lambda _: lambda part: passes.append(len(part)) or part)
    assert tokenizer.in_passes(tokenizer.encode_pass, torch.zeros(3, 3, 16, 16)).shape == (3, 3, 16, 16)
    assert passes == [1, 1, 1]
