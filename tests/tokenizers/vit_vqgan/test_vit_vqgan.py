"""ViT-VQGAN: published names and shapes, and the tokenizer."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.paths import SHARED
from helpers.vit_vqgan_models import TINY, images, loaded, random_tensors, shapes_of
from torch import Tensor

from tokenstore.errors import TokenizerError
from tokenstore.networks.transformer import sin_cos_table
from tokenstore.tokenizers.kinds.vit_vqgan import BASE, SMALL, ViTVQGANConfig, ViTVQGANTokenizer, random_model

PUBLISHED = SHARED / "reference" / "checkpoint-keys.json"


# ---- names, shapes, sizes


@pytest.mark.parametrize(("config", "entry"), [(SMALL, "vit_vqgan_small"), (BASE, "vit_vqgan_base")])
def test_names_and_shapes_are_those_of_the_published_checkpoints(config: ViTVQGANConfig, entry: str) -> None:
    if not PUBLISHED.is_file():
        pytest.skip("the list of published names and shapes is not beside the repository")
    published = json.loads(PUBLISHED.read_text())[entry]
    assert shapes_of(config) == {
        name: tuple(shape) for name, shape in published.items() if not name.startswith("loss.")
    }


def test_a_model_of_one_layer_has_these_names_and_shapes() -> None:
    side: dict[str, tuple[int, ...]] = {
        "transformer.layers.0.0.norm.weight": (512,),
        "transformer.layers.0.0.norm.bias": (512,),
        "transformer.layers.0.0.fn.to_qkv.weight": (1536, 512),
        "transformer.layers.0.0.fn.to_out.weight": (512, 512),
        "transformer.layers.0.0.fn.to_out.bias": (512,),
        "transformer.layers.0.1.norm.weight": (512,),
        "transformer.layers.0.1.norm.bias": (512,),
        "transformer.layers.0.1.fn.net.0.weight": (2048, 512),
        "transformer.layers.0.1.fn.net.0.bias": (2048,),
        "transformer.layers.0.1.fn.net.2.weight": (512, 2048),
        "transformer.layers.0.1.fn.net.2.bias": (512,),
        "transformer.norm.weight": (512,),
        "transformer.norm.bias": (512,),
    }
    assert shapes_of(replace(SMALL, depth=1)) == {
        **{f"{half}.{name}": shape for half in ("encoder", "decoder") for name, shape in side.items()},
        "encoder.en_pos_embedding": (1, 1024, 512),
        "encoder.to_patch_embedding.0.weight": (512, 3, 8, 8),
        "encoder.to_patch_embedding.0.bias": (512,),
        "decoder.de_pos_embedding": (1, 1024, 512),
        "decoder.to_pixel.1.weight": (512, 3, 8, 8),
        "decoder.to_pixel.1.bias": (3,),
        "pre_quant.weight": (32, 512),
        "pre_quant.bias": (32,),
        "post_quant.weight": (512, 32),
        "post_quant.bias": (512,),
        "quantizer.embedding.weight": (8192, 32),
    }


def test_the_published_sizes_have_191_and_279_tensors() -> None:
    assert len(shapes_of(SMALL)) == 191
    assert len(shapes_of(BASE)) == 279


@pytest.mark.parametrize(("config", "label"), [(SMALL, "vit-vqgan-small"), (BASE, "vit-vqgan-base")])
def test_the_published_sizes_are_recognised_by_their_shapes(
    tmp_path: Path, config: ViTVQGANConfig, label: str
) -> None:
    """Read the size from the error about a missing tensor; tensors without data keep the file small."""
    tensors = {name: torch.zeros(1).expand(shape) for name, shape in shapes_of(config).items()}
    del tensors["encoder.en_pos_embedding"]
    message = (
        rf"{label} \(width {config.width}, {config.depth} layers(?s:.*)1 missing: encoder.en_pos_embedding"
    )
    with pytest.raises(TokenizerError, match=message):
        loaded(tmp_path / "a.pt", tensors)


def test_the_small_model_encodes_and_decodes() -> None:
    tokenizer = ViTVQGANTokenizer(random_model(SMALL, seed=0))
    assert tokenizer.name == "vit-vqgan-small"
    assert tokenizer.image_size == 256
    codes = tokenizer.encode(images(1, 256))
    assert codes.shape == (1, 32, 32)
    assert len(codes.unique()) > 20
    assert tokenizer.decode(codes).shape == (1, 3, 256, 256)


def test_random_models_of_a_seed_are_equal_and_leave_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    first, again, other = (random_model(TINY, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert not torch.equal(first["pre_quant.weight"], other["pre_quant.weight"])
    assert torch.equal(state, torch.get_rng_state())


def test_positions_are_sines_and_cosines_of_the_column_and_then_of_the_row() -> None:
    zero = [0.0, 0.0, 1.0, 1.0]
    one = [0.84147098, 0.00999983, 0.54030231, 0.99995000]
    two = [0.90929743, 0.01999867, -0.41614684, 0.99980001]
    expected = [column + row for row in (zero, one, two) for column in (zero, one, two)]
    table = sin_cos_table((3, 3), 8)
    assert table.dtype == torch.float32
    assert table.shape == (1, 9, 8)
    np.testing.assert_allclose(table[0].numpy(), expected, atol=1e-7)


def test_untrained_models_have_the_fixed_positions() -> None:
    model = random_model(TINY, seed=0)
    assert torch.equal(model.encoder.en_pos_embedding, sin_cos_table((4, 4), 48))
    assert torch.equal(model.decoder.de_pos_embedding, sin_cos_table((4, 4), 48))


# ---- the tokenizer


def test_it_says_what_it_is(tokenizer: ViTVQGANTokenizer) -> None:
    assert tokenizer.name == "vit-vqgan"
    assert tokenizer.codebook_sizes == (8192,)
    assert tokenizer.image_size == 32
    assert tokenizer.dtype == torch.float32
    assert tokenizer.device == torch.device("cpu")
    assert tokenizer.grid((3, 32, 32)) == (4, 4)
    table = random_tensors()["quantizer.embedding.weight"].numpy()
    assert tokenizer.codebook is not None
    assert tokenizer.codebook.shape == (8192, 32)
    assert tokenizer.codebook.dtype == np.float32
    np.testing.assert_allclose(tokenizer.codebook, table / np.linalg.norm(table, axis=1)[:, None], atol=1e-6)


def test_images_of_256_pixels_become_codes_of_32_by_32_and_images_again(tmp_path: Path) -> None:
    tokenizer = loaded(tmp_path / "a.ckpt", random_tensors(replace(TINY, grid=32)))
    assert tokenizer.image_size == 256
    codes = tokenizer.encode(images(2, 256))
    assert codes.shape == (2, *tokenizer.grid((3, 256, 256))) == (2, 32, 32)
    assert codes.dtype == torch.int64
    assert len(codes.unique()) > 100
    rebuilt = tokenizer.decode(codes.to(torch.int16))
    assert rebuilt.shape == (2, 3, 256, 256)
    assert rebuilt.dtype == torch.uint8


def test_codes_do_not_depend_on_the_batch_or_its_order(tokenizer: ViTVQGANTokenizer) -> None:
    batch = images(21)
    expected = torch.cat([tokenizer.encode(image[None]) for image in batch])
    assert torch.equal(torch.cat([tokenizer.encode(part) for part in batch.split(7)]), expected)
    order = torch.randperm(21, generator=torch.Generator().manual_seed(0))
    assert torch.equal(tokenizer.encode(batch[order]), expected[order])


def test_codes_do_not_depend_on_memory_layout(tokenizer: ViTVQGANTokenizer) -> None:
    batch = images(3)
    channels_last = batch.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert torch.equal(tokenizer.encode(channels_last), tokenizer.encode(batch))


def test_empty_batches_have_their_shapes(tokenizer: ViTVQGANTokenizer) -> None:
    codes = tokenizer.encode(images(0))
    assert codes.shape == (0, 4, 4)
    assert tokenizer.decode(codes).shape == (0, 3, 32, 32)


@pytest.mark.parametrize(("bias", "level"), [(-3.0, 0), (0.0, 0), (0.25, 64), (1.0, 255), (7.0, 255)])
def test_rebuilt_images_are_scaled_from_0_to_1_and_clipped(tmp_path: Path, bias: float, level: int) -> None:
    tensors = random_tensors()
    tensors["decoder.to_pixel.1.weight"].zero_()
    tensors["decoder.to_pixel.1.bias"].fill_(bias)
    rebuilt = loaded(tmp_path / "a.pt", tensors).decode(torch.zeros(1, 4, 4, dtype=torch.int64))
    assert rebuilt.unique().tolist() == [level]


@pytest.mark.parametrize("shape", [(3, 64, 64), (3, 32, 40), (3, 33, 32), (1, 32, 32), (32, 32)])
def test_images_of_another_size_are_refused(tokenizer: ViTVQGANTokenizer, shape: tuple[int, ...]) -> None:
    message = r"vit-vqgan: expected an image \(3, 32, 32\), .* resize to 32x32"
    with pytest.raises(TokenizerError, match=message) as raised:
        tokenizer.grid(shape)
    assert f"found {shape}" in str(raised.value)
    if len(shape) == 3:
        with pytest.raises(TokenizerError, match=message):
            tokenizer.encode(torch.zeros(2, *shape, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.zeros(2, 4, 5, dtype=torch.int64), r"expected codes \(B, 4, 4\), found \(2, 4, 5\)"),
        (torch.zeros(0, 8, 8, dtype=torch.int64), r"expected codes \(B, 4, 4\), found \(0, 8, 8\)"),
        (torch.zeros(4, 4, dtype=torch.int64), r"expected codes \(B, 4, 4\), found \(4, 4\)"),
        (torch.zeros(2, 4, 4), "of an integer dtype, found .* torch.float32"),
        (torch.full((1, 4, 4), 8192), r"expected codes in 0\.\.8191, found 8192\.\.8192"),
    ],
)
def test_codes_that_do_not_fit_are_refused(tokenizer: ViTVQGANTokenizer, codes: Tensor, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        tokenizer.decode(codes)


def test_every_weight_counts_for_the_fingerprint(tmp_path: Path) -> None:
    tensors = random_tensors()
    seen = {loaded(tmp_path / "a.pt", tensors).fingerprint}
    for name in tensors:
        changed = tensors | {name: tensors[name] * 1.5}
        seen.add(loaded(tmp_path / "a.pt", changed).fingerprint)
    assert len(seen) == len(tensors) + 1
