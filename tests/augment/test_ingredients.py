"""The ingredients of augmentations: the published sets, each ingredient alone, and their order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from helpers.adapters import seeded, small_adapter
from torch import Tensor, nn

from tokenstore.augment import (
    INGREDIENTS,
    ColorAdapt,
    CutMix,
    CutMixOrMixup,
    EmbNoise,
    ExactFlip,
    HorizontalFlip,
    Ingredients,
    OneOf,
    Recipe,
    TokenEDA,
    recipes,
)
from tokenstore.format import FLIP

CODEBOOK = torch.randn(20, 8, generator=seeded(9))
PARTNERS = np.arange(20, dtype=np.int32) ^ 1
PLAIN = Ingredients()


def test_the_published_sets_are_those_of_the_published_runs() -> None:
    seit, finetune, mtm = (INGREDIENTS[name] for name in ("seit", "finetune", "mtm"))
    assert (seit.token_eda, seit.emb_noise, seit.color_adapt, seit.colour_last) == (True, 0.5, 0.25, True)
    assert (finetune.token_eda, finetune.emb_noise, finetune.color_adapt) == (False, 0.75, 0.25)
    assert not finetune.colour_last
    for supervised in (seit, finetune):
        assert (supervised.cutmix, supervised.mixup, supervised.smoothing) == (1.0, 0.8, 0.1)
        assert supervised.scale == (0.08, 1.0)
    assert mtm == Ingredients(scale=(0.2, 1.0))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"emb_noise": 0.7, "color_adapt": 0.4}, "emb_noise, color_adapt: expected probabilities with a sum"),
        ({"emb_noise": -0.1}, "emb_noise: expected a number from 0 to 1, found -0.1"),
        ({"color_adapt": float("nan")}, "color_adapt: expected a number from 0 to 1"),
        ({"cutmix": -1.0}, "cutmix: expected a number from 0"),
        ({"mixup": float("inf")}, "mixup: expected a number from 0"),
        ({"flip": "left"}, "flip: expected one of exact, naive, none"),
    ],
)
def test_ingredients_out_of_range_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Ingredients(**wrong)  # type: ignore[arg-type]


def parts(recipe: Recipe) -> list[str]:
    return [type(module).__name__ for module in recipe.modules()]


@pytest.mark.parametrize(
    ("ingredients", "names"),
    [
        (Ingredients(token_eda=True), {"TokenEDA", "SynonymReplacement", "PatchSwap"}),
        (Ingredients(emb_noise=0.5), {"EmbNoise", "OneOf"}),
        (Ingredients(color_adapt=0.5), {"ColorAdapt", "OneOf"}),
        (Ingredients(cutmix=1.0), {"CutMix"}),
        (Ingredients(flip="naive"), {"HorizontalFlip"}),
    ],
)
def test_an_ingredient_adds_itself_and_nothing_else(ingredients: Ingredients, names: set[str]) -> None:
    plain = parts(recipes.made_of(PLAIN, CODEBOOK, classes=3, size=(3, 5)))
    made = parts(recipes.made_of(ingredients, CODEBOOK, classes=3, size=(3, 5)))
    assert set(made) - set(plain) == names


def test_the_probabilities_of_colours_are_those_of_the_ingredients() -> None:
    colour = recipes.made_of(INGREDIENTS["seit"], CODEBOOK).colour
    assert isinstance(colour, OneOf)
    chances = dict(zip((type(choice) for choice in colour.choices), colour.p, strict=True))
    assert chances == {EmbNoise: 0.5, ColorAdapt: 0.25}
    assert recipes.made_of(INGREDIENTS["mtm"], CODEBOOK).colour is None


def test_the_half_of_the_adapter_takes_turns_between_what_there_is() -> None:
    def mixing(cutmix: float, mixup: float) -> nn.Module | None:
        ingredients = Ingredients(cutmix=cutmix, mixup=mixup)
        recipe = recipes.made_of(ingredients, CODEBOOK, classes=3, adapter=small_adapter(), size=(3, 5))
        assert (recipe.mixing is None) == (cutmix == 0)
        return recipe.adapter_mixing

    both = mixing(1.0, 0.8)
    assert isinstance(both, CutMixOrMixup)
    assert (both.switch, both.cutmix.alpha, both.mixup.alpha) == (0.5, 1.0, 0.8)
    assert type(mixing(1.0, 0)) is CutMix
    assert str(mixing(0, 0.8)) == "Mixup(alpha=0.8)"
    assert mixing(0, 0) is None


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("flip", [None, "exact", "naive", "none"])
def test_flips_are_those_asked_for_and_the_adapter_flips_where_nothing_else_does(
    flip: str | None, symmetric: bool
) -> None:
    symmetries = {FLIP: PARTNERS} if symmetric else {}

    def made() -> Recipe:
        return recipes.made_of(
            Ingredients(flip=flip),  # type: ignore[arg-type]
            CODEBOOK,
            adapter=small_adapter(),
            size=(3, 5),
            symmetries=symmetries,
        )

    if flip == "exact" and not symmetric:
        with pytest.raises(
            ValueError, match="flip: expected naive or none, since the codes have no symmetry"
        ):
            made()
        return
    expected = {"naive": HorizontalFlip, "none": None}.get(str(flip), ExactFlip if symmetric else None)
    recipe = made()
    assert [type(module) for module in recipe.on_codes] == ([] if expected is None else [expected])
    assert recipe.adapter_geometry is not None
    by_adapter = expected is None and flip is None
    assert recipe.adapter_geometry.flip.p == (0.5 if by_adapter else 0.0)  # type: ignore[union-attr]


class Noted(nn.Module):
    """A step that notes its name and the shape of its input, and gives what another module gives."""

    def __init__(self, name: str, steps: list[tuple[str, tuple[int, ...]]], module: nn.Module) -> None:
        super().__init__()
        self.name, self.steps, self.module = name, steps, module

    def forward(self, samples: Tensor, *others: Tensor, generator: torch.Generator) -> object:
        self.steps.append((self.name, tuple(samples.shape)))
        return self.module(samples, *others, generator=generator)


def order(ingredients: Ingredients, adapted: bool) -> Sequence[tuple[str, tuple[int, ...]]]:
    """Return the steps of a recipe for six samples, by the shapes that they get."""
    steps: list[tuple[str, tuple[int, ...]]] = []
    adapter = small_adapter() if adapted else None
    recipe = recipes.made_of(ingredients, CODEBOOK, classes=7, size=(3, 5), adapter=adapter)
    for name in ("colour", "crop", "mixing", "adapter_mixing"):
        module = getattr(recipe, name)
        if module is not None:
            setattr(recipe, name, Noted(name, steps, module))
    codes = torch.randint(0, 20, (6, 4, 6), generator=seeded(0))
    recipe(codes, torch.arange(6), generator=seeded(0))
    return steps


def test_supervised_training_crops_then_changes_colours_then_mixes() -> None:
    assert order(INGREDIENTS["seit"], adapted=False) == [
        ("crop", (6, 8, 4, 6)),
        ("colour", (6, 8, 3, 5)),
        ("mixing", (6, 8, 3, 5)),
    ]


def test_supervised_training_with_an_adapter_draws_one_colour_for_both_halves() -> None:
    assert order(INGREDIENTS["seit"], adapted=True) == [
        ("crop", (3, 8, 4, 6)),
        ("adapter_mixing", (3, 8, 6, 10)),
        ("colour", (6, 8, 3, 5)),
        ("mixing", (3, 8, 3, 5)),
    ]


def test_fine_tuning_changes_colours_before_the_crop_and_mixes_each_half_by_itself() -> None:
    assert order(INGREDIENTS["finetune"], adapted=True) == [
        ("colour", (6, 8, 4, 6)),
        ("crop", (3, 8, 4, 6)),
        ("mixing", (3, 8, 3, 5)),
        ("adapter_mixing", (3, 8, 6, 10)),
    ]


def test_token_eda_is_drawn_for_each_sample_and_never_both() -> None:
    """Count samples of codes that all differ: a swap keeps the set of codes, synonyms do not."""
    size, count = 32, 4000
    table = (torch.arange(size * size)[:, None] + torch.arange(1, 6)) % (size * size)
    codes = torch.arange(size * size).view(1, size, size).expand(count, -1, -1)
    after = TokenEDA(table)(codes, generator=seeded(1))
    changed = (after != codes).flatten(1)
    swapped = (after.flatten(1).sort(1).values == codes.flatten(1)).all(1) & changed.any(1)
    replaced = changed.any(1) & ~swapped
    assert 0.23 < replaced.float().mean() < 0.27
    assert 0.245 < changed[replaced].float().mean() < 0.255, "the rate of synonyms in such a sample"
    drawn = swapped.float().mean() * 8 / 7  # of eight sides, the side 0 is not seen
    assert 0.23 < drawn < 0.27
    sides, counts = (changed[swapped].sum(1) / 2).sqrt().unique(return_counts=True)
    assert sides.tolist() == list(range(1, 8))
    assert counts.min() > 0.75 * counts.float().mean()


def test_the_boxes_of_cutmix_have_even_sides() -> None:
    ones = torch.stack((torch.zeros(1, 40, 40), torch.ones(1, 40, 40)))
    targets = torch.eye(2)
    generator = seeded(0)
    inside = 0
    for _ in range(300):
        mixed, blended = CutMix()(ones, targets, generator=generator)
        rows, columns = (mixed[0, 0].amax(axis).bool() for axis in (1, 0))
        for line in (rows, columns):
            if line.any() and not line[0] and not line[-1]:  # a box that no border cuts
                inside += 1
                assert int(line.sum()) % 2 == 0
        torch.testing.assert_close(blended[0, 1], mixed[0].mean())
    assert inside > 100
