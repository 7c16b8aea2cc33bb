"""The exact flip of codes, alone and in recipes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from seitpp_models.training.augmentations import Augmentation, segmentation_recipe, training_recipe
from tokenstore.augment import AdapterConfig, ExactFlip, TokenAdapt, augmented_examples, recipes
from tokenstore.errors import CodecError

PARTNERS = torch.tensor([0, 2, 1, 4, 3, 6, 5, 7])
SYMMETRIES = {"flip": PARTNERS.numpy().astype(np.int32)}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randint(0, len(PARTNERS), shape, generator=seeded(seed))


def vectors() -> Tensor:
    """Return a codebook of which partners have exchanged vectors."""
    rows = torch.randn(len(PARTNERS), 6, generator=seeded(0))
    for code, partner in enumerate(PARTNERS.tolist()):
        if partner >= code:
            rows[partner] = rows[code].roll(3)
    return rows


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int32, torch.int64])
@pytest.mark.parametrize("shape", [(5, 3, 4), (5, 4, 7), (1, 1, 1), (0, 2, 2)])
def test_flips_equal_a_plain_loop_and_undo_themselves(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    codes = drawn(1, *shape).to(dtype)
    flip = ExactFlip(PARTNERS)
    mask = flip.draw(len(codes), seeded(2))
    flipped = flip(codes, generator=seeded(2))
    assert flipped.dtype == dtype
    for sample, before, after in zip(mask.tolist(), codes.long(), flipped.long(), strict=True):
        expected = [[int(PARTNERS[code]) for code in reversed(row)] for row in before.tolist()]
        assert after.tolist() == (expected if sample else before.tolist())
    assert torch.equal(flip.flipped(flipped, mask), codes)


def test_half_of_the_samples_are_flipped_and_draws_are_the_generators() -> None:
    flip = ExactFlip(PARTNERS)
    assert 400 < int(flip.draw(1000, seeded(0)).sum()) < 600
    codes = drawn(3, 64, 2, 3)
    assert torch.equal(flip(codes, generator=seeded(4)), flip(codes, generator=seeded(4)))
    assert not torch.equal(flip(codes, generator=seeded(4)), flip(codes, generator=seeded(5)))
    assert torch.equal(ExactFlip(PARTNERS, p=0)(codes, generator=seeded(4)), codes)


@pytest.mark.parametrize("partners", [[1, 2, 0], [0, 0, 2], [0, 3, 1], [-1, 0], [[[0]]], []])
def test_partners_that_are_none_are_refused(partners: list[int]) -> None:
    with pytest.raises(ValueError, match="each the partner of its own"):
        ExactFlip(torch.tensor(partners, dtype=torch.long))


def test_codes_that_are_none_are_refused() -> None:
    flip = ExactFlip(PARTNERS)
    with pytest.raises(CodecError, match="expected a code from 0 to 7, found 8"):
        flip(torch.full((1, 2, 2), 8), generator=seeded(0))
    with pytest.raises(CodecError, match="integer"):
        flip(torch.zeros(1, 2, 2), generator=seeded(0))
    with pytest.raises(ValueError, match="of 2 codebooks, found"):
        ExactFlip(PARTNERS.expand(2, -1))(drawn(0, 1, 3, 2, 2), generator=seeded(0))


def test_codes_beyond_a_shorter_codebook_are_refused() -> None:
    flip = ExactFlip(torch.tensor([[1, 0, 2], [1, 0, -1]]), p=1.0)
    codes = torch.tensor([[[2, 1], [0, 1]]])
    assert flip(codes, generator=seeded(0)).tolist() == [[[0, 2], [0, 1]]]
    with pytest.raises(CodecError, match="expected a code from 0 to 1, found 2"):
        flip(codes.flip(1), generator=seeded(0))


def tiny_adapter() -> TokenAdapt:
    config = AdapterConfig(
        codebook_size=len(PARTNERS), channels=6, grid=(4, 4), size=(4, 4), width=16, heads=2, mlp=16
    )
    torch.manual_seed(0)
    return TokenAdapt(config)


@pytest.mark.parametrize("adapter", [None, tiny_adapter()])
def test_recipes_of_symmetric_codes_flip_all_halves_exactly_and_the_adapter_flips_none(
    adapter: TokenAdapt | None,
) -> None:
    size = (4, 4)
    for recipe in (
        recipes.mtm_pretrain(vectors(), adapter, size, symmetries=SYMMETRIES),
        recipes.finetune(vectors(), adapter, 3, size, symmetries=SYMMETRIES),
    ):
        assert isinstance(recipe.on_codes[0], ExactFlip)
        if adapter is not None:
            assert recipe.adapter_geometry.flip.p == 0
    assert isinstance(recipes.seit(vectors(), 3, size, symmetries=SYMMETRIES).on_codes[0], ExactFlip)
    assert len(recipes.mtm_pretrain(vectors(), None, size).on_codes) == 0
    recipe = training_recipe(
        Augmentation.named("mtm"), vectors(), size, gives_codes=True, symmetries=SYMMETRIES
    )
    codes = drawn(1, 4, 4, 4)
    inputs, _ = recipe(codes, None, generator=seeded(0))
    assert inputs.shape == (4, 4, 4)


def test_examples_of_symmetric_codes_have_an_exact_flip() -> None:
    codes = drawn(5, 2, 4, 4)
    examples = augmented_examples(codes, vectors(), tiny_adapter(), symmetries=SYMMETRIES)
    assert torch.equal(examples["exact flip"], PARTNERS[codes].flip(2))
    assert "exact flip" not in augmented_examples(codes, vectors(), tiny_adapter())


def test_label_maps_flip_with_their_codes() -> None:
    recipe = segmentation_recipe(
        Augmentation.named("crops"),
        vectors(),
        (4, 4),
        gives_codes=True,
        ignore_index=255,
        symmetries=SYMMETRIES,
    )
    codes = drawn(1, 16, 4, 4)
    masks = codes.repeat_interleave(2, 1).repeat_interleave(2, 2).to(torch.uint8)
    recipe.colour = torch.nn.Module()
    recipe.colour.forward = lambda embeddings, generator: embeddings
    inputs, moved = recipe(codes, masks, generator=seeded(3))
    drawn_flip = ExactFlip(PARTNERS).draw(16, seeded(3))
    assert 0 < int(drawn_flip.sum()) < 16
    exact = recipe.flip.flipped(codes, drawn_flip)
    recipe.flip = None
    generator = seeded(3)
    ExactFlip(PARTNERS).draw(16, generator)
    again, labels = recipe(exact, recipe_masks(masks, drawn_flip), generator=generator)
    assert torch.equal(inputs, again)
    assert torch.equal(moved, labels)


def recipe_masks(masks: Tensor, flip: Tensor) -> Tensor:
    return torch.stack(
        [mask.flip(-1) if sample else mask for mask, sample in zip(masks, flip.tolist(), strict=True)]
    )
