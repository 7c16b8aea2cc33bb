"""The strength of Emb-Noise and the sizes of recipes, which come from the codebook and from the grid."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from helpers.adapters import seeded, small_adapter
from torch import Tensor

from tokenstore.augment import (
    CroppedEmbedding,
    EmbNoise,
    Ingredients,
    Requantise,
    noise_strength,
    recipes,
    seen_size,
)
from tokenstore.augment.seen_part import RandomPart
from tokenstore.tokenizers import load_tokenizer

CODEBOOK = 0.2 * torch.randn(20, 8, generator=seeded(9))
MAKERS: dict[str, Callable[..., torch.nn.Module]] = {
    "seit": lambda **more: recipes.seit(CODEBOOK, 7, **more),
    "mtm_pretrain": lambda **more: recipes.mtm_pretrain(
        CODEBOOK, small_adapter(), ingredients=Ingredients(emb_noise=0.5), **more
    ),
    "finetune": lambda **more: recipes.finetune(CODEBOOK, small_adapter(), 7, **more),
}
NOISY = pytest.mark.parametrize("make", MAKERS.values(), ids=list(MAKERS))


def strengths(recipe: torch.nn.Module) -> list[float]:
    return [module.strength for module in recipe.modules() if isinstance(module, EmbNoise)]


@NOISY
def test_the_noise_of_a_recipe_is_derived_from_its_codebook(make: Callable[..., torch.nn.Module]) -> None:
    deviation = float(CODEBOOK.std())
    assert strengths(make()) == [pytest.approx(deviation)]
    assert f"strength={deviation:.4g}" in str(make())
    assert strengths(make(noise="published")) == [1.0]
    assert strengths(make(noise=0.5)) == [0.5]
    for wrong in (-1, "publish", float("nan"), float("inf")):
        with pytest.raises(ValueError, match="noise: expected a number from 0, or 'published'"):
            make(noise=wrong)


def surviving(codebook: Tensor, noise: EmbNoise) -> float:
    """Return the share of codes that are themselves again after noise and requantising."""
    codes = torch.randint(0, len(codebook), (2, 16, 16), generator=seeded(0))
    vectors = torch.nn.functional.embedding(codes, codebook).movedim(-1, 1)
    return float((Requantise(codebook)(noise(vectors, generator=seeded(1))) == codes).float().mean())


@pytest.mark.parametrize(
    ("name", "deviation"), [("conv-vq-8x-2k", 0.1768), ("conv-vq-symmetric-8x-2k", 0.998)]
)
def test_the_default_noise_leaves_the_packaged_tokenizers_codes_recognisable(
    name: str, deviation: float
) -> None:
    codebook = torch.as_tensor(load_tokenizer(name).codebook)
    assert noise_strength(codebook) == pytest.approx(deviation, abs=1e-3)
    assert surviving(codebook, EmbNoise(noise_strength(codebook), share=1)) > 0.05


def test_the_published_noise_drowns_vectors_of_length_1_and_not_the_default_tokenizers() -> None:
    for name, is_left in (("conv-vq-8x-2k", False), ("default", True)):
        codebook = torch.as_tensor(load_tokenizer(name).codebook)
        left = surviving(codebook, EmbNoise(noise_strength(codebook, "published"), share=1))
        assert left > 0.05 if is_left else left < 0.01


def test_a_codebook_of_one_number_has_no_noise() -> None:
    assert noise_strength(torch.ones(1, 1)) == 0


@pytest.mark.parametrize(
    ("grid", "size"),
    [((32, 32), (28, 28)), ((8, 8), (8, 8)), ((8, 20), (8, 20)), ((16, 20), (14, 16))],
)
@NOISY
def test_a_recipes_result_has_the_size_that_networks_see_of_the_grid(
    make: Callable[..., torch.nn.Module], grid: tuple[int, int], size: tuple[int, int]
) -> None:
    codes = torch.randint(0, 20, (4, *grid), generator=seeded(0))
    inputs, _ = make()(codes, torch.arange(4), generator=seeded(0))
    assert tuple(inputs.shape[-2:]) == size == seen_size(grid)
    assert torch.equal(recipes.none()(codes)[0], recipes.none(size)(codes)[0])


def test_the_size_by_default_draws_as_the_same_size_that_is_given_does() -> None:
    codes = torch.randint(0, 20, (4, 16, 20), generator=seeded(0))
    for make in MAKERS.values():
        derived, given = (
            make(**more)(codes, torch.arange(4), generator=seeded(3)) for more in ({}, {"size": (14, 16)})
        )
        assert torch.equal(derived[0], given[0])
    derived = CroppedEmbedding(CODEBOOK, RandomPart())(codes, generator=seeded(4))
    assert derived.shape == (4, 8, 14, 16)


@NOISY
def test_a_size_beyond_the_grid_is_refused(make: Callable[..., torch.nn.Module]) -> None:
    codes = torch.randint(0, 20, (4, 8, 8), generator=seeded(0))
    with pytest.raises(ValueError, match=r"expected a part of the grid \(8, 8\), found \(28, 28\)"):
        make(size=(28, 28))(codes, torch.arange(4), generator=seeded(0))
    with pytest.raises(ValueError, match="expected a grid of at least"):
        recipes.none((28, 28))(codes)
