"""The packaged TokenAdapts: each for its tokenizer, and better than moving codes about."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from seitpp_models.adapter.evaluation import evaluate_adapter
from tokenstore.augment import recipes
from tokenstore.augment.adapters import PACKAGED_ADAPTERS, load_adapter
from tokenstore.errors import AdapterError
from tokenstore.format.manifest import TokenizerIdentity
from tokenstore.tokenizers import SymmetricTokenizer, load_tokenizer


@pytest.fixture(scope="module")
def photographs() -> Tensor:
    """Return two photographs (2, 3, 256, 256) uint8 that no tokenizer or adapter was trained on."""
    from sklearn.datasets import load_sample_images  # not above: each test process would import it

    pixels = torch.stack([torch.from_numpy(image.copy()) for image in load_sample_images().images])
    square = pixels.permute(0, 3, 1, 2)[..., :427, :427].float()
    return F.interpolate(square, (256, 256), mode="bicubic", antialias=True).round().clamp(0, 255).byte()


def test_the_default_tokenizer_has_one_which_is_the_default() -> None:
    assert load_adapter().tokenizer.fingerprint == load_tokenizer("default").fingerprint


@pytest.mark.parametrize("name", PACKAGED_ADAPTERS)
def test_it_is_for_its_tokenizer_and_no_other(name: str) -> None:
    tokenizer = load_tokenizer(name)
    identity = TokenizerIdentity(tokenizer.name, tokenizer.fingerprint)
    assert load_adapter(tokenizer=identity).tokenizer == identity
    with pytest.raises(AdapterError, match="expected an adapter for the codes of other"):
        load_adapter(tokenizer=TokenizerIdentity("other", "ab" * 32))


@pytest.mark.thorough
@pytest.mark.parametrize("name", PACKAGED_ADAPTERS)
def test_it_comes_nearer_to_the_augmented_image_than_naive_augmentation(
    photographs: Tensor, name: str
) -> None:
    tokenizer = load_tokenizer(name)
    adapter = load_adapter(tokenizer=TokenizerIdentity(name, tokenizer.fingerprint))
    quality = evaluate_adapter(adapter, tokenizer, photographs)
    assert set(quality) == {"flip", "crop-resize", "rotation", "translation", "shear"}
    for transform, figures in quality.items():
        assert figures.naive_psnr + 1 < figures.psnr
        if transform == "flip" and isinstance(tokenizer, SymmetricTokenizer):  # found nearly exactly
            assert abs(figures.psnr - figures.exact_psnr) < 0.01
        else:
            assert figures.psnr < figures.exact_psnr
    gains = [figures.psnr - figures.naive_psnr for figures in quality.values()]
    assert sum(gains) / len(gains) > 2
    # A single transform may do worse on two images: a code of plain sky is right wherever it is moved to.
    shares = [figures.share - figures.naive_share for figures in quality.values()]
    assert sum(shares) / len(shares) > 0.03


def test_it_works_in_the_recipes_on_grids_of_any_size(photographs: Tensor) -> None:
    tokenizer = load_tokenizer("default")
    codes = tokenizer.encode(photographs)
    for part, size in ((codes, (28, 28)), (codes[:, :8, :12], (7, 10))):
        recipe = recipes.mtm_pretrain(tokenizer.codebook, load_adapter(), size)
        inputs, _ = recipe(part, None, generator=torch.Generator().manual_seed(0))
        assert inputs.shape == (2, *size)
        assert 0 <= inputs.min() <= inputs.max() < tokenizer.codebook_sizes[0]
