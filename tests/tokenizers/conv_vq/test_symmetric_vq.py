"""The symmetric tokenizer: mirroring commutes with it exactly, by construction, with any weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.symmetric_models import SMALL, random_model, random_tokenizer, smooth_images
from safetensors.torch import load_file, save_file

from tokenstore.augment import ExactFlip
from tokenstore.errors import TokenizerError
from tokenstore.format import FLIP
from tokenstore.tokenizers import SymmetricTokenizer, load_tokenizer
from tokenstore.tokenizers.kinds.conv_vq import to_pixels
from tokenstore.tokenizers.kinds.symmetric_vq import (
    FORMAT,
    SymmetricVQConfig,
    SymmetricVQTokenizer,
    TiedLinear,
    exchanged,
    load_weights,
    save_weights,
)

TOKENIZER = random_tokenizer()
PARTNERS = torch.from_numpy(TOKENIZER.symmetries[FLIP]).long()


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("size", [(64, 64), (128, 128), (72, 104), (104, 72), (24, 8)])
def test_codes_of_mirror_images_are_the_permuted_mirrored_codes(size: tuple[int, int], batch: int) -> None:
    images = smooth_images(batch, *size, seed=batch)
    codes, mirrored = TOKENIZER.encode(images), TOKENIZER.encode(images.flip(3))
    assert torch.equal(mirrored, PARTNERS[codes].flip(2))
    if size[1] > 64:
        assert len(codes.unique()) > 10


def test_at_256_pixels_codes_are_equal_too_and_flips_equal_encoding_the_mirror_image() -> None:
    images = torch.cat(
        (smooth_images(1, 256, 256), torch.randint(0, 256, (1, 3, 256, 256), dtype=torch.uint8))
    )
    codes = TOKENIZER.encode(images)
    flip = ExactFlip(TOKENIZER.symmetries[FLIP], p=1)
    flipped = flip(codes, generator=torch.Generator())
    assert (TOKENIZER.encode(images.flip(3)) == flipped).float().mean() >= 0.999
    assert torch.equal(TOKENIZER.decode(flipped), TOKENIZER.decode(codes).flip(3))


@pytest.mark.parametrize("brightness", [0, 255, 77])
def test_images_that_are_their_own_mirror_images_have_codes_that_are_their_own_partners(
    brightness: int,
) -> None:
    image = torch.full((1, 3, 64, 72), brightness, dtype=torch.uint8)
    codes = TOKENIZER.encode(image)
    assert torch.equal(codes, PARTNERS[codes].flip(2))
    assert (codes[..., 4] < SMALL.self_paired).all(), "the middle column of nine is its own mirror image"


def test_the_decoder_commutes_with_mirroring_and_agrees_at_every_batch() -> None:
    model = random_model()
    codes = torch.randint(0, 60, (3, 5, 7), generator=torch.Generator().manual_seed(0))
    pixels = model.pixels(model.embed(codes))
    assert pixels.shape == (3, 3, 40, 56)
    mirrored = model.pixels(model.embed(PARTNERS[codes].flip(2)))
    assert (mirrored.flip(3) - pixels).abs().max() <= 1e-3
    alone = model.pixels(model.embed(codes[1:2]))
    torch.testing.assert_close(alone, pixels[1:2], atol=1e-5, rtol=1e-5)


def test_codes_are_those_of_the_largest_cosine_similarity() -> None:
    model = random_model()
    latents = model.latents(to_pixels(smooth_images(2, 64, 96)))
    torch.testing.assert_close(latents.square().sum(1), torch.ones(2, 8, 12))
    plain = (latents.permute(0, 2, 3, 1) @ model.codebook.T).argmax(-1)
    assert (model.nearest(latents) == plain).float().mean() > 0.98
    alone = replace(SMALL, self_paired=60)
    model = random_model(alone)
    assert torch.equal(model.nearest(latents), (latents.permute(0, 2, 3, 1) @ model.codebook.T).argmax(-1))


def test_a_latent_as_near_to_a_code_as_to_its_partner_gets_a_code_of_its_own_partner() -> None:
    model = random_model()
    between = model.codebook[20] + model.codebook[21]
    latents = (between / between.norm()).view(1, -1, 1, 1)
    assert int(model.nearest(latents)) < SMALL.self_paired


def test_the_codebook_is_closed_and_near_one_a_channel() -> None:
    vectors = TOKENIZER.codebook
    assert vectors.shape == (60, 8)
    np.testing.assert_array_equal(vectors[PARTNERS], np.roll(vectors, 4, axis=1))
    np.testing.assert_allclose((vectors**2).mean(1), 1, rtol=1e-5)
    assert (torch.arange(60) == PARTNERS).sum() == SMALL.self_paired
    assert torch.equal(PARTNERS[PARTNERS], torch.arange(60))
    assert isinstance(TOKENIZER, SymmetricTokenizer)


def test_a_tied_layer_equals_the_products_that_the_module_names() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(2, 2, 5, 6, 4).unbind(0)
    pairs = torch.cat((a, b.flip(2)))
    linear = TiedLinear(4, 3)
    first, second = linear(pairs).chunk(2)
    own, other = (linear.even.weight + linear.odd.weight), (linear.even.weight - linear.odd.weight)
    torch.testing.assert_close(first, a @ own.T + b @ other.T + linear.even.bias, atol=1e-5, rtol=1e-5)
    expected = b @ own.T + a @ other.T + linear.even.bias
    torch.testing.assert_close(second.flip(2), expected, atol=1e-5, rtol=1e-5)


# ---- weights files


def test_weights_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(random_model(), path)
    tokenizer = load_tokenizer(f"conv-vq-symmetric:{path}")
    assert isinstance(tokenizer, SymmetricVQTokenizer)
    assert tokenizer.name == "small-symmetric"
    assert tokenizer.fingerprint == SymmetricVQTokenizer(load_weights(path)).fingerprint
    images = smooth_images(1, 64, 64)
    assert torch.equal(tokenizer.encode(images.flip(3)), PARTNERS[tokenizer.encode(images)].flip(2))


def test_files_of_the_two_kinds_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(random_model(), path)
    with pytest.raises(TokenizerError, match="which the tokenizer 'conv-vq-symmetric' reads"):
        load_tokenizer(f"conv-vq:{path}")


def test_a_codebook_that_is_not_closed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(random_model(), path)
    tensors = load_file(path)
    tensors["codebook"][20] += 0.5
    save_file(tensors, path, {"format": FORMAT, "config": SMALL.to_json()})
    with pytest.raises(TokenizerError, match="each code's exchanged vector at its partner"):
        load_weights(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_width": 33}, "expected an even encoder_width, found 33"),
        ({"patch": 7}, "expected an even patch, found 7"),
        ({"self_paired": 11}, "expected self_paired to leave pairs of 60 codes, found 11"),
        ({"self_paired": 62}, "expected self_paired to leave pairs of 60 codes, found 62"),
    ],
)
def test_sizes_that_cannot_be_halved_are_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        replace(SMALL, **changes)


@pytest.mark.parametrize("codes", [2, 3, 16, 17, 391, 2048])
def test_any_number_of_codes_leaves_pairs(codes: int) -> None:
    config = SymmetricVQConfig.of_codes("mine", codes)
    assert 1 <= config.self_paired <= codes
    assert (codes - config.self_paired) % 2 == 0


def test_the_default_shape_keeps_its_weights_file_small() -> None:
    with torch.device("meta"):
        model = SymmetricVQConfig().build()
    halves = sum(weight.numel() for weight in model.parameters())
    assert 2 * halves + 4 * model.codebook.numel() < 16e6


def test_exchanging_twice_changes_nothing() -> None:
    vectors = torch.randn(3, 8)
    assert torch.equal(exchanged(exchanged(vectors)), vectors)
    assert torch.equal(exchanged(vectors)[:, :4], vectors[:, 4:])
