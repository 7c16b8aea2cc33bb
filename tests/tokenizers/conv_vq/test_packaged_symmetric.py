"""The packaged symmetric tokenizer: its codes, its flips and its quality on photographs."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from tokenstore.format import FLIP
from tokenstore.sources.images import ImageOptions, decode_image
from tokenstore.tokenizers import load_tokenizer
from tokenstore.tokenizers.kinds.symmetric_vq import PACKAGED_WEIGHTS

NAME = "conv-vq-symmetric-8x-2k"
FINGERPRINT = "de6fc9b645d80465a27425a479ff89c7a8c4f18a76d5a2600c329ffe3990a221"


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(NAME)


@pytest.fixture(scope="module")
def photographs():
    """Read two photographs, squashed: by side, (2, 3, side, side) uint8."""
    datasets = pytest.importorskip("sklearn.datasets")
    files = []
    for photo in datasets.load_sample_images().images:
        file = io.BytesIO()
        Image.fromarray(photo).save(file, "PNG")
        files.append(file.getvalue())
    return {
        side: torch.from_numpy(
            np.stack([decode_image(file, ImageOptions(side)).pixels for file in files])
        ).permute(0, 3, 1, 2)
        for side in (64, 128, 256)
    }


def test_it_says_what_it_is_and_stores_hold_its_fingerprint(tokenizer):
    assert tokenizer.name == NAME
    assert tokenizer.fingerprint == FINGERPRINT
    assert tokenizer.codebook.shape == (2048, 32)
    assert 0.9 < tokenizer.codebook.std() < 1.1
    assert PACKAGED_WEIGHTS.stat().st_size < 16_000_000


@pytest.mark.parametrize("side", [64, 128, 256])
def test_codes_of_mirrored_photographs_are_the_permuted_mirrored_codes(tokenizer, photographs, side):
    images, flip = photographs[side], torch.from_numpy(tokenizer.symmetries[FLIP])
    codes = tokenizer.encode(images)
    exact = flip[codes].flip(2)
    assert (tokenizer.encode(images.flip(3)) == exact).float().mean() >= 0.999
    assert torch.equal(tokenizer.decode(exact), tokenizer.decode(codes).flip(3))


def test_photographs_are_rebuilt_well_with_many_different_codes(tokenizer, photographs):
    """Floors are a little under what the released weights reach: 23.7 and 27.0 dB, 754 codes."""
    images = photographs[256]
    codes = tokenizer.encode(images)
    error = (images.double() - tokenizer.decode(codes)).square().mean((1, 2, 3))
    church, flower = (10 * torch.log10(255**2 / error)).tolist()
    assert church > 23.2
    assert flower > 26.5
    assert torch.unique(codes).numel() > 690
