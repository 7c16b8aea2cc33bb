"""The recipes that are named published have the settings of the published runs, as their code does them."""

from __future__ import annotations

from typing import Any

import pytest
from timm.optim import param_groups_layer_decay

from seitpp_models.networks.vit import token_vit
from seitpp_models.recipes import read_recipe, recipe_names
from seitpp_models.training.resolving import resolve
from seitpp_models.training.settings import FinetuneSettings, PretrainSettings

NORM = ("LayerNorm.weight", "LayerNorm.bias")
VIT = {"depth": 3, "grid": (4, 4), "channels": 4, "num_classes": 3}
BATCH = {"seit-imagenet": 1024, "finetune-imagenet": 1024, "pretrain-imagenet": 4096}
PUBLISHED: dict[str, dict[str, Any]] = {
    "seit-imagenet": {
        "learning_rate": 7.5e-4 * 1024 / 512,
        "layer_decay": 1.0,
        "weight_decay": 0.1,
        "smoothing": 0.1,
        "clip": 0.0,
        "epochs": 300,
        "input": "vectors",
        "token_eda": True,
        "emb_noise": 0.5,
        "color_adapt": 0.25,
        "noise": "published",
        "cutmix": 1.0,
        "adapter": "none",
    },
    "finetune-imagenet": {
        "learning_rate": 1e-3 * 1024**0.5 / 8,
        "layer_decay": 0.65,
        "weight_decay": 0.1,
        "smoothing": 0.1,
        "clip": 0.0,
        "epochs": 100,
        "drop_path": 0.1,
        "token_eda": False,
        "emb_noise": 0.75,
        "color_adapt": 0.25,
        "noise": "published",
        "cutmix": 1.0,
        "mixup": 0.8,
        "adapter": "default",
    },
    "pretrain-imagenet": {
        "learning_rate": 1.5e-4 * 4096 / 256,
        "layer_decay": 1.0,
        "weight_decay": 0.05,
        "smoothing": 0.0,
        "clip": 0.0,
        "epochs": 400,
        "beta2": 0.95,
        "warmup_epochs": 40,
        "token_eda": False,
        "emb_noise": 0.0,
        "color_adapt": 0.0,
        "adapter": "default",
    },
}


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_published_recipes_resolve_to_the_published_settings(name: str) -> None:
    command, kinds = ("pretrain", PretrainSettings) if "pretrain" in name else ("finetune", FinetuneSettings)
    settings = resolve(command, kinds, name, {}).values
    expected = {**PUBLISHED[name], "batch_size": BATCH[name], "model": "base"}
    assert {setting: settings[setting] for setting in expected} == pytest.approx(expected)


@pytest.mark.parametrize("name", [name for name in recipe_names() if name.startswith(("finetune", "seit"))])
def test_no_recipe_of_classifiers_inherits_a_layer_decay_silently(name: str) -> None:
    recipe = read_recipe(name)
    assert "layer_decay" in recipe
    if name in ("seit-imagenet", "finetune-demo"):  # which begin from scratch
        assert recipe["layer_decay"] == 1


@pytest.mark.parametrize("codes", [8, (8, 4)])
def test_layer_decay_leaves_the_embedding_of_codes_and_the_head_at_the_full_rate(codes: Any) -> None:
    network = token_vit("tiny", codebook_size=codes, **VIT)
    groups = param_groups_layer_decay(network, layer_decay=0.5)
    scale_of = {id(part): group["lr_scale"] for group in groups for part in group["params"]}
    scales = {name: scale_of[id(part)] for name, part in network.named_parameters()}
    full = {name for name, scale in scales.items() if scale == 1}
    embedding = {f"patch_embed.token_emb.{name}" for name in ("word_embeddings.weight", *NORM)}
    assert full >= {"head.weight", "head.bias"} | embedding
    assert not any(
        name.startswith(("blocks.", "patch_embed.proj", "cls_token", "pos_embed")) for name in full
    )
    lowest = {name for name, scale in scales.items() if scale == min(scales.values())}
    assert lowest == {"cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"}
    vectors = token_vit("tiny", **VIT)
    assert len(param_groups_layer_decay(vectors, layer_decay=0.5)) == len(groups)
