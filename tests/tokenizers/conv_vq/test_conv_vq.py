"""The default tokenizer: its codes and its quality."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from helpers.pictures import noise
from PIL import Image

from tokenstore.errors import TokenizerError
from tokenstore.sources.images import ImageOptions, decode_image
from tokenstore.tokenizers import TOKENIZERS, load_tokenizer
from tokenstore.tokenizers.kinds.conv_vq import PACKAGED_WEIGHTS, ConvVQTokenizer
from tokenstore.tokenizers.passes import full_passes

FINGERPRINT = "5119381817ea056acf67a88d698557de40ac08fe383d6d62f6cd2a55ba146680"


@pytest.fixture(scope="module")
def tokenizer() -> ConvVQTokenizer:
    return ConvVQTokenizer.load(PACKAGED_WEIGHTS)


# ---- codes


def test_the_default_tokenizer_says_what_it_is(tokenizer: ConvVQTokenizer) -> None:
    assert tokenizer.name == "conv-vq-8x-2k"
    assert tokenizer.codebook_sizes == (2048,)
    assert tokenizer.image_size == 256
    assert tokenizer.grid((3, 256, 256)) == (32, 32)
    assert tokenizer.codebook.shape == (2048, 32)
    assert tokenizer.codebook.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(tokenizer.codebook, axis=1), 1, atol=1e-5)


def test_a_tokenizer_says_where_and_in_what_it_computes(tokenizer: ConvVQTokenizer) -> None:
    assert tokenizer.device == torch.device("cpu")
    assert tokenizer.dtype == torch.float32


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "found ''"),
        ("default:", "expected default, found 'default:'"),
        ("default:x.safetensors", "expected default, found 'default:x.safetensors'"),
        ("conv-vq", r"expected conv-vq:WEIGHTS.safetensors, found 'conv-vq' without WEIGHTS.safetensors"),
        ("conv-vq:", "expected conv-vq:WEIGHTS.safetensors, found 'conv-vq:'"),
    ],
)
def test_specs_that_make_no_sense_are_refused(spec: str, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(spec)


def test_a_package_that_is_not_installed_is_named_with_the_extra_that_brings_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name, kind in TOKENIZERS.items():
        if kind.packages:
            with pytest.raises(
                TokenizerError, match=rf"{kind.packages[0]}; pip install 'tokenstore\[{kind.extra}\]'"
            ):
                load_tokenizer(f"{name}:x")


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(TokenizerError, match="device 'nonsense' cannot be used here"):
        load_tokenizer("default", "nonsense")


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(TokenizerError, match=r"default.*found 'vqgan-of-mine'"):
        load_tokenizer("vqgan-of-mine")


def test_the_fingerprint_is_that_of_the_released_weights(tokenizer: ConvVQTokenizer) -> None:
    """Stores hold this number: weights may only change together with the tokenizer's name."""
    assert tokenizer.fingerprint == FINGERPRINT


def test_the_weights_are_small_enough_to_ship() -> None:
    assert PACKAGED_WEIGHTS.stat().st_size < 16_000_000


@pytest.mark.parametrize(("height", "width"), [(8, 8), (16, 24), (64, 40), (256, 256)])
def test_any_multiple_of_the_patch_is_encoded_and_decoded(
    tokenizer: ConvVQTokenizer, height: int, width: int
) -> None:
    codes = tokenizer.encode(noise(2, 3, height, width))
    assert codes.dtype == torch.int64
    assert codes.shape == (2, height // 8, width // 8) == (2, *tokenizer.grid((3, height, width)))
    assert 0 <= int(codes.min()) <= int(codes.max()) < 2048
    rebuilt = tokenizer.decode(codes)
    assert rebuilt.dtype == torch.uint8
    assert rebuilt.shape == (2, 3, height, width)


def test_codes_do_not_depend_on_the_batch(tokenizer: ConvVQTokenizer) -> None:
    images = noise(33, 3, 64, 64)
    expected = torch.cat([tokenizer.encode(images[i : i + 1]) for i in range(33)])
    for size in (7, 32, 33):
        found = torch.cat([tokenizer.encode(images[i : i + size]) for i in range(0, 33, size)])
        assert torch.equal(found, expected)


def test_codes_do_not_depend_on_memory_layout(tokenizer: ConvVQTokenizer) -> None:
    images = noise(3, 3, 64, 64)
    channels_last = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert torch.equal(tokenizer.encode(channels_last), tokenizer.encode(images))


def test_single_passes_agree_with_a_pass_over_the_whole_batch(tokenizer: ConvVQTokenizer) -> None:
    """Up to a few codes between two nearly equal entries, which float rounding may tip."""
    images = noise(16, 3, 128, 128)
    agreement = (tokenizer.encode(images) == tokenizer.encode_pass(images)).float().mean()
    assert agreement > 0.999


def test_a_part_filled_pass_gives_the_codes_of_a_full_one(tokenizer: ConvVQTokenizer) -> None:
    images = noise(8, 3, 64, 64)
    full, part = (
        full_passes(tokenizer.encode_pass, batch, tokenizer.device) for batch in (images, images[:3])
    )
    assert torch.equal(part, full[:3])


def test_encoding_leaves_its_input_alone_and_records_no_gradients(tokenizer: ConvVQTokenizer) -> None:
    images = noise(1, 3, 64, 64)
    before = images.clone()
    assert not tokenizer.decode(tokenizer.encode(images)).requires_grad
    assert torch.equal(images, before)


def test_codes_can_be_trained_on_at_once(tokenizer: ConvVQTokenizer) -> None:
    """Tensors made under inference_mode could not: autograd refuses to keep them."""
    table = torch.zeros(2048, 4, requires_grad=True)
    torch.nn.functional.embedding(tokenizer.encode(noise(1, 3, 32, 32)), table).sum().backward()
    assert table.grad is not None


def test_empty_batches_stay_empty(tokenizer: ConvVQTokenizer) -> None:
    codes = tokenizer.encode(torch.zeros((0, 3, 32, 16), dtype=torch.uint8))
    assert codes.shape == (0, 4, 2)
    assert codes.dtype == torch.int64
    assert tokenizer.decode(codes).shape == (0, 3, 32, 16)


def test_codes_of_any_integer_dtype_decode_alike(tokenizer: ConvVQTokenizer) -> None:
    codes = tokenizer.encode(noise(1, 3, 32, 32))
    for dtype in (torch.uint16, torch.int16, torch.int32):
        assert torch.equal(tokenizer.decode(codes.to(dtype)), tokenizer.decode(codes))


def test_a_tokenizer_moved_to_another_device_is_the_same(tokenizer: ConvVQTokenizer) -> None:
    moved = tokenizer.to("cpu")
    assert moved.fingerprint == tokenizer.fingerprint
    images = noise(1, 3, 32, 32)
    assert torch.equal(moved.encode(images), tokenizer.encode(images))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 250, 256), r"multiples of 8, found \(250, 256\); resize to 248x256"),
        ((1, 3, 256, 4), r"multiples of 8, found \(256, 4\)"),
        ((1, 3, 0, 8), r"multiples of 8, found \(0, 8\)"),
        ((1, 1, 64, 64), r"\(3, H, W\), found shape \(1, 64, 64\)"),
        ((1, 64, 64, 3), r"\(3, H, W\), found shape \(64, 64, 3\)"),
        ((3, 64, 64), r"\(B, 3, H, W\) uint8, found \(3, 64, 64\)"),
    ],
)
def test_images_of_a_wrong_shape_are_refused(
    tokenizer: ConvVQTokenizer, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(TokenizerError, match=message):
        tokenizer.encode(torch.zeros(shape, dtype=torch.uint8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
def test_images_of_a_wrong_dtype_are_refused(tokenizer: ConvVQTokenizer, dtype: torch.dtype) -> None:
    with pytest.raises(TokenizerError, match=f"uint8, found .* {dtype}"):
        tokenizer.encode(torch.zeros((1, 3, 64, 64), dtype=dtype))


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.zeros((4, 4), dtype=torch.int64), r"\(B, H, W\) of an integer dtype, found \(4, 4\)"),
        (torch.zeros((1, 4, 4)), "integer dtype, found .* torch.float32"),
        (torch.zeros((1, 4, 4), dtype=torch.bool), "integer dtype, found .* torch.bool"),
        (torch.full((1, 4, 4), 2048), r"0\.\.2047, found 2048\.\.2048"),
        (torch.full((1, 4, 4), -1), r"0\.\.2047, found -1\.\.-1"),
    ],
)
def test_codes_that_are_none_are_refused(
    tokenizer: ConvVQTokenizer, codes: torch.Tensor, message: str
) -> None:
    with pytest.raises(TokenizerError, match=message):
        tokenizer.decode(codes)


# ---- quality


def test_photographs_are_rebuilt_well_with_many_different_codes(tokenizer: ConvVQTokenizer) -> None:
    """Floors are a little under what the released weights reach: 23.3 and 26.3 dB, 724 codes."""
    datasets = pytest.importorskip("sklearn.datasets")
    images = torch.stack([squashed(photo) for photo in datasets.load_sample_images().images])
    codes = tokenizer.encode(images)
    error = (images.double() - tokenizer.decode(codes)).square().mean((1, 2, 3))
    church, flower = (10 * torch.log10(255**2 / error)).tolist()
    assert church > 22.8
    assert flower > 25.8
    assert torch.unique(codes).numel() > 650


def squashed(photo: np.ndarray) -> torch.Tensor:
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "PNG")
    pixels = decode_image(file.getvalue(), ImageOptions(256)).pixels
    return torch.from_numpy(pixels).permute(2, 0, 1)
