"""The published recipes: what they give, by batches and sample by sample."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from helpers.adapters import seeded, small_adapter
from torch import Tensor, nn

from tokenstore.augment import (
    AdapterConfig,
    CodebookEmbedding,
    ColorAdapt,
    Recipe,
    TokenAdapt,
    recipes,
)

CODEBOOK = torch.randn(20, 8, generator=seeded(9))


def made(name: str) -> nn.Module:
    arguments = {
        "seit": lambda: recipes.seit(CODEBOOK, 7, (3, 5)),
        "mtm_pretrain": lambda: recipes.mtm_pretrain(CODEBOOK, small_adapter(), (3, 5)),
        "finetune": lambda: recipes.finetune(CODEBOOK, small_adapter(), 7, (3, 5)),
        "none": lambda: recipes.none((3, 5)),
    }
    return arguments[name]()


NAMES = ("seit", "mtm_pretrain", "finetune", "none")


@pytest.mark.parametrize("count", [1, 2, 7, 8])
@pytest.mark.parametrize("name", NAMES)
def test_recipes_give_what_their_networks_take(name: str, count: int) -> None:
    codes = torch.randint(0, 20, (count, 4, 6), generator=seeded(0))
    labels = torch.arange(count) % 7
    kept = codes.clone()
    for seed in range(6):
        inputs, targets = made(name)(codes, labels, generator=seeded(seed))
        again = made(name)(codes, labels, generator=seeded(seed))
        assert torch.equal(inputs, again[0])
        assert torch.equal(targets, again[1])
        assert torch.equal(codes, kept)
        if name == "seit":
            assert (inputs.shape, inputs.dtype) == ((count, 8, 3, 5), torch.float32)
        else:
            assert (inputs.shape, inputs.dtype) == ((count, 3, 5), torch.int64)
            assert 0 <= inputs.min() <= inputs.max() < 20
        if name in ("seit", "finetune"):
            assert targets.shape == (count, 7)
            torch.testing.assert_close(targets.sum(1), torch.ones(count))
        else:
            assert torch.equal(targets, labels)


@pytest.mark.parametrize("name", NAMES)
def test_recipes_can_be_read(name: str) -> None:
    text = str(made(name))
    expected = {
        "seit": (
            "TokenEDA",
            "rate=0.25",
            "PatchSwap",
            "EmbNoise",
            "ColorAdapt",
            "scale=(0.08, 1.0)",
            "CutMix",
        ),
        "mtm_pretrain": (
            "scale=(0.2, 1.0)",
            "TokenAdapt",
            "degrees=30",
            "Requantise",
        ),
        "finetune": ("p=[0.25, 0.75]", "Mixup", "alpha=0.8", "smoothing=0.1", "scale=(0.08, 1.0)"),
        "none": ("CenterCrop",),
    }
    assert all(part in text for part in expected[name]), text


def test_half_of_a_batch_takes_each_path() -> None:
    adapter = small_adapter()
    adapter.precision = "fp32"
    recipe = Recipe(CODEBOOK, nn.Identity(), adapter=adapter, requantise=True)
    recipe.crop = _Same()
    adapter.augmentation = _Same()
    codes = torch.randint(0, 20, (5, 4, 6), generator=seeded(0))
    inputs, _ = recipe(codes, None, generator=seeded(0))
    assert torch.equal(inputs[:3], codes[:3])
    vectors = CodebookEmbedding(CODEBOOK)(codes[3:])
    assert torch.equal(inputs[3:], adapter.to_logits(adapter.to_map(vectors)).argmax(1))


def test_recipes_leave_the_adapter_as_it_is() -> None:
    adapter = small_adapter()
    before = str(adapter)
    pretraining = recipes.mtm_pretrain(CODEBOOK, adapter, (3, 5))
    finetuning = recipes.finetune(CODEBOOK, adapter, 7, (3, 5))
    assert str(adapter) == before
    assert "scale=(0.2, 1.0)" in str(pretraining.adapter_geometry)
    assert "scale=(0.08, 1.0)" in str(finetuning.adapter_geometry)


class _Same(nn.Module):
    def forward(self, x: Tensor, *, generator: torch.Generator) -> Tensor:
        return x


def test_targets_that_are_probabilities_need_labels_and_classes() -> None:
    codes = torch.zeros(2, 4, 6, dtype=torch.long)
    with pytest.raises(ValueError, match="labels: expected labels"):
        made("finetune")(codes, None, generator=seeded(0))
    with pytest.raises(ValueError, match="classes"):
        Recipe(CODEBOOK, nn.Identity(), smoothing=0.1)
    with pytest.raises(ValueError, match="20 codes, found one for 391"):
        Recipe(CODEBOOK, nn.Identity(), adapter=TokenAdapt(AdapterConfig()))
    inputs, targets = made("mtm_pretrain")(codes, None, generator=seeded(0))
    assert targets is None
    assert len(inputs) == 2


def test_no_augmentation_sample_by_sample_is_the_central_crop() -> None:
    codes = torch.randint(0, 20, (4, 6), generator=seeded(0))
    assert torch.equal(recipes.none((2, 4)).per_sample()(codes), codes[1:3, 1:5])


@pytest.mark.parametrize("name", ["seit", "mtm_pretrain", "finetune"])
def test_per_sample_depends_on_seed_epoch_and_place_alone(name: str) -> None:
    codes = torch.randint(0, 20, (16, 4, 6), generator=seeded(0))
    partners = torch.randint(0, 20, (9, 4, 6), generator=seeded(1))
    recipe = made(name)
    assert isinstance(recipe, Recipe)
    transform = recipe.per_sample(3, partners)
    rows = np.arange(100, 116)
    whole = transform.of_rows(rows, list(codes))
    order = torch.randperm(16, generator=seeded(2)).tolist()
    for places in (order[:7], order[7:]):
        for place, found in zip(
            places, transform.of_rows(rows[places], [codes[place] for place in places]), strict=True
        ):
            assert torch.equal(found, whole[place])
    assert all(
        torch.equal(a, b)
        for a, b in zip(made(name).per_sample(3, partners).of_rows(rows, list(codes)), whole, strict=True)
    )
    transform.set_epoch(1)
    other = transform.of_rows(rows, list(codes))
    assert sum(not torch.equal(a, b) for a, b in zip(other, whole, strict=True)) > 8
    others = made(name).per_sample(4, partners).of_rows(rows, list(codes))
    assert sum(not torch.equal(a, b) for a, b in zip(others, whole, strict=True)) > 8


def test_per_sample_leaves_the_recipe_alone_and_gives_colours_of_partners() -> None:
    recipe = recipes.finetune(CODEBOOK, small_adapter(), 7, (3, 5))
    before = str(recipe)
    transform = recipe.per_sample(0, torch.randint(0, 20, (9, 4, 6), generator=seeded(1)))
    assert str(recipe) == before
    banks = [module for module in transform.module.modules() if isinstance(module, ColorAdapt)]
    assert [module.bank for module in banks] == [9]
    assert not any(module.training for module in transform.module.modules())


@pytest.mark.parametrize(
    "make",
    [
        lambda: recipes.finetune(None, None, 3),  # type: ignore[arg-type]
        lambda: recipes.mtm_pretrain(None, None),  # type: ignore[arg-type]
        lambda: recipes.seit(None, 3),  # type: ignore[arg-type]
    ],
)
def test_a_codebook_that_a_store_does_not_have_is_named(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"codebook: expected vectors \(K, C\), found None"):
        make()
