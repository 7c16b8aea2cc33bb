"""Samples become images again, for grids of any rank."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.brightness import BrightnessTokenizer, write_grey_image
from helpers.brightness_stores import LEVELS, Line, converted, levels
from helpers.stores import Samples, write_store
from PIL import Image

import tokenstore
from tokenstore.audit.originals import open_images
from tokenstore.audit.quality import measure_quality
from tokenstore.audit.reconstruct import decode_samples
from tokenstore.audit.retokenization import retokenize
from tokenstore.errors import TokenizerError
from tokenstore.format.manifest import Manifest, TokenizerIdentity
from tokenstore.sources.images import ImageOptions, decode_image
from tokenstore.tokenizers.registry import load_tokenizer


def test_samples_become_images_in_the_order_asked_for(store: tokenstore.TokenStore) -> None:
    found = decode_samples(store, "train", [5, 0, -1, 5], BrightnessTokenizer())
    assert (found.shape, found.dtype) == ((4, 16, 16, 3), np.uint8)
    assert levels(found) == [5, 0, 8, 5]


@pytest.mark.parametrize("batch", [1, 4, 9, 100])
def test_images_do_not_depend_on_the_batch(store: tokenstore.TokenStore, batch: int) -> None:
    assert levels(decode_samples(store, "train", range(LEVELS), BrightnessTokenizer(), batch)) == list(
        range(9)
    )


def test_no_indices_give_no_images(store: tokenstore.TokenStore) -> None:
    assert decode_samples(store, "train", [], BrightnessTokenizer()).shape == (0, 16, 16, 3)


def test_an_index_out_of_range_is_refused(store: tokenstore.TokenStore) -> None:
    with pytest.raises(IndexError, match="index 9 is out of range for 9 samples"):
        decode_samples(store, "train", [9], BrightnessTokenizer())


class Film(BrightnessTokenizer):
    """A tokenizer of the brightness of frames (T, H, W): video (B, T, 3, H, W) in and out."""

    def grid(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        raise TokenizerError(f"expected video (T, 3, H, W), found {input_shape}")

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        grey = codes.to(torch.uint8).repeat_interleave(8, 2).repeat_interleave(8, 3)
        return grey[:, :, None].expand(-1, -1, 3, -1, -1)


class Digits(BrightnessTokenizer):
    """A tokenizer of brightness in two codes: sixteens, and what is left."""

    codebook_sizes = (16, 16)
    codebook = np.random.default_rng(0).random((2, 16, 4)).astype(np.float32)

    def grid(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        return (2, *super().grid(input_shape))

    def encode(self, inputs: torch.Tensor) -> torch.Tensor:
        patches = inputs.float().unfold(2, 8, 8).unfold(3, 8, 8).mean((1, 4, 5)).round().long()
        return torch.stack([patches // 16, patches % 16], dim=1)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return super().decode(codes[:, 0] * 16 + codes[:, 1])


@pytest.mark.parametrize("tokenizer", [Line(), Digits()], ids=["(L,)", "(n, H, W)"])
def test_grids_of_other_ranks_are_compared_like_any(images: Path, tmp_path: Path, tokenizer: Any) -> None:
    store = converted(images, tmp_path / "out", tokenizer)
    assert tokenizer_of_is_fitted(store.manifest, tokenizer)
    assert levels(decode_samples(store, "train", range(LEVELS), tokenizer)) == list(range(9))
    source = open_images(store.manifest)
    assert measure_quality(store, tokenizer, source, 9)["train"].psnr == 100
    write_grey_image(images / "class-0" / "000.png", 1)
    agreement = retokenize(store, tokenizer, source, 9).splits["train"]
    assert (agreement.equal_samples, agreement.samples) == (8, 9)
    changed = 4  # of the two planes of Digits only the second
    assert agreement.codes - agreement.equal_codes == changed


def tokenizer_of_is_fitted(manifest: Manifest, tokenizer: Any) -> bool:
    from tokenstore.tokenizers.store_tokenizer import fitted

    return fitted(manifest, tokenizer) is tokenizer


def test_video_keeps_its_frames(tmp_path: Path) -> None:
    codes = np.arange(2 * 3, dtype=np.uint8).reshape(2, 3, 1, 1).repeat(2, 2).repeat(2, 3)
    write_store(
        tmp_path / "film", {"train": Samples(codes)}, 256, tokenizer=TokenizerIdentity("brightness", "b" * 64)
    )
    store = tokenstore.open(tmp_path / "film")
    assert tokenizer_of_is_fitted(store.manifest, Film())
    found = decode_samples(store, "train", [1, 0], Film())
    assert found.shape == (2, 3, 16, 16, 3)
    assert [levels(film) for film in found] == [[3, 4, 5], [0, 1, 2]]


def test_what_is_no_image_is_refused(store: tokenstore.TokenStore) -> None:
    class Floats(BrightnessTokenizer):
        def decode(self, codes: torch.Tensor) -> torch.Tensor:
            return super().decode(codes).float()

    with pytest.raises(TokenizerError, match=r"\(B, T, 3, H, W\) uint8 of decoding, found .* torch.float32"):
        decode_samples(store, "train", [0], Floats())


def test_a_tokenizer_of_files_gets_the_columns_that_the_store_keeps(tmp_path: Path) -> None:
    """JPEG files of the right size come back bit for bit, each by its own quantisation tables."""
    pytest.importorskip("jpeglib", reason="the extra jpeg is not installed")
    rng = np.random.default_rng(0)
    (tmp_path / "jpegs").mkdir()
    for number, quality in enumerate((30, 60, 90)):
        pixels = np.repeat(np.repeat(rng.integers(0, 256, (8, 8, 3), np.uint8), 4, 0), 4, 1)
        Image.fromarray(pixels).save(tmp_path / "jpegs" / f"{number}.jpg", quality=quality)
    tokenizer = load_tokenizer("dct:64,size=32")
    store = converted(tmp_path / "jpegs", tmp_path / "out", tokenizer, image_size=32)
    found = decode_samples(store, "train", [2, 0], tokenizer)
    for image, number in zip(found, (2, 0), strict=True):
        file = (tmp_path / "jpegs" / f"{number}.jpg").read_bytes()
        np.testing.assert_array_equal(image, decode_image(file, ImageOptions(32)).pixels)
    source = open_images(store.manifest)
    assert measure_quality(store, tokenizer, source, 3)["train"].psnr == 100
    again = retokenize(store, tokenizer, source, 3)
    assert (again.splits["train"].equal_samples, again.splits["train"].codes) == (3, 3 * 384 * 2 * 2)
    assert again.arithmetic == again.stored_arithmetic == "exact"
