"""The packaged recipes: complete, and those named as published with the settings of the published runs."""

from __future__ import annotations

import typing
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from seitpp_models.networks.mtm import MaskedTokenConfig, MaskedTokenModel
from seitpp_models.networks.vit import token_vit
from seitpp_models.recipes import read_recipe, recipe_names
from seitpp_models.training import finetuning, pretraining, segmenting
from seitpp_models.training.augmentations import Augmentation
from seitpp_models.training.optimisers import OptimiserConfig, groups_of, optimiser_of, schedule_of
from seitpp_models.training.resolving import Settings
from tokenstore.augment import INGREDIENTS

DOORS = {
    "finetune": finetuning.DOOR,
    "pretrain": pretraining.DOOR,
    "segment": segmenting.DOOR,
    "seit": finetuning.DOOR,
}
OF_THE_DATA = {
    *("split", "evaluate_split", "start", "classes", "share", "share_seed", "held_out", "ignore_index"),
    *("depth", "patch", "grid_size", "decoder_width", "flip", "noise"),  # null: what the model or store has
    "combination",  # of several codebooks
}
OF_THE_MACHINE = {
    *("device", "threads", "loader_threads", "precision", "resident", "compile", "seed"),
    *("evaluate_every", "checkpoint_minutes", "keep_best", "keep_last", "keep_every", "resume"),
}
DEPTH, WIDTH = 12, 64


def resolved(name: str) -> Settings:
    return DOORS[name.split("-")[0]].resolve(name, {})


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_says_every_setting_that_decides_its_losses(name: str) -> None:
    given, door = read_recipe(name), DOORS[name.split("-")[0]]
    needed = typing.get_type_hints(door.kinds).keys() - OF_THE_DATA - OF_THE_MACHINE
    if not given["ema"]:
        needed -= {"evaluate_ema"}
    if given["augment"] == "none":
        needed -= {"token_eda", "emb_noise", "color_adapt", "cutmix", "mixup", "adapter_draws"}
    assert needed - given.keys() == set()
    settings = door.resolve(name, {})
    assert all(settings[setting] == value for setting, value in given.items())


COMMON = {"beta2": 0.999, "clip": 0.0, "noise": "published", "keep_best": True, "keep_last": 2}
PUBLISHED: dict[str, dict[str, Any]] = {
    "seit-imagenet": {
        **COMMON,
        "model": "base",
        "input": "vectors",
        "epochs": 300,
        "batch_size": 1024,
        "learning_rate": 7.5e-4 * 1024 / 512,
        "min_lr": 1e-5,
        "warmup_lr": 1e-6,
        "warmup_epochs": 5,
        "weight_decay": 0.1,
        "layer_decay": 1.0,
        "ema": 0.99996,
        "evaluate_ema": False,
        "drop_path": 0.1,
        "smoothing": 0.1,
        "loss": "cross-entropy",
        "attn_only": False,
        "augment": "seit",
        "adapter": "none",
        "adapter_draws": "sample",
    },
    "finetune-imagenet": {
        **COMMON,
        "model": "base",
        "input": "codes",
        "epochs": 100,
        "batch_size": 1024,
        "learning_rate": 1e-3 * 1024**0.5 / 8,
        "min_lr": 1e-6,
        "warmup_lr": 0.0,
        "warmup_epochs": 5,
        "weight_decay": 0.1,
        "layer_decay": 0.65,
        "ema": 0.0,
        "drop_path": 0.1,
        "smoothing": 0.1,
        "loss": "cross-entropy",
        "attn_only": False,
        "augment": "finetune",
        "adapter": "default",
        "adapter_draws": "batch",
    },
    "pretrain-imagenet": {
        **COMMON,
        "model": "base",
        "decoder_depth": 4,
        "epochs": 400,
        "batch_size": 128 * 4 * 8,
        "accumulation": 4,
        "learning_rate": 1.5e-4 * 4096 / 256,
        "min_lr": 0.0,
        "warmup_lr": 0.0,
        "warmup_epochs": 40,
        "weight_decay": 0.05,
        "layer_decay": 1.0,
        "ema": 0.0,
        "beta2": 0.95,
        "mask_mean": 0.45,
        "mask_deviation": 0.25,
        "mask_low": 0.4,
        "mask_high": 1.0,
        "smoothing": 0.0,
        "augment": "mtm",
        "adapter": "default",
        "adapter_draws": "batch",
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_settings_of_a_published_recipe_are_those_of_the_published_run(name: str) -> None:
    settings, expected = resolved(name), PUBLISHED[name]
    found = {setting: settings[setting] for setting in expected}
    assert found == {setting: pytest.approx(value) for setting, value in expected.items()}
    augmentation = Augmentation.of(settings)
    drawn = replace(INGREDIENTS[expected["augment"]], adapter_draws=expected["adapter_draws"])
    assert augmentation.ingredients == drawn
    assert augmentation.noise == "published"


@pytest.mark.parametrize("name", recipe_names())
def test_only_fine_tuning_has_a_layer_decay(name: str) -> None:
    begins_with_weights = name in ("finetune-imagenet", "finetune-one-gpu", "segment-one-gpu", "finetune-cpu")
    assert (resolved(name)["layer_decay"] < 1) == begins_with_weights


def config_of(settings: Settings, steps: int = 1000, warmup: int = 50) -> OptimiserConfig:
    names = ("learning_rate", "weight_decay", "layer_decay", "min_lr", "warmup_lr", "epochs", "batch_size")
    values = {name: settings[name] for name in names}
    return OptimiserConfig(steps=steps, warmup_steps=warmup, **values)


def groups(model: nn.Module, settings: Settings) -> dict[str, tuple[float, float]]:
    """Return the scale of the learning rate and the weight decay of each parameter."""
    optimizer = optimiser_of(config_of(settings), model)
    return {
        name: (group.scale, group.weight_decay)
        for group in groups_of(optimizer, model)
        for name in group.names
    }


def vit(codebook_size: int | None) -> nn.Module:
    sizes = {"embed_dim": WIDTH, "depth": DEPTH, "num_heads": 1, "channels": 4, "num_classes": 7}
    return token_vit("tiny", codebook_size=codebook_size, **sizes)


def decays(name: str, parameter: torch.Tensor, without: tuple[str, ...]) -> bool:
    return parameter.ndim > 1 and name not in without


def test_fine_tuning_scales_each_layer_and_leaves_the_embedding_of_tokens_alone() -> None:
    model = vit(20)
    found = groups(model, resolved("finetune-imagenet"))
    parameters = dict(model.named_parameters())
    assert found.keys() == parameters.keys()
    for name, parameter in parameters.items():
        first, second = (*name.split("."), "")[:2]
        if first == "blocks":
            layers = DEPTH - int(second)
        elif first in ("cls_token", "pos_embed") or name.startswith("patch_embed.proj"):
            layers = DEPTH + 1
        else:
            assert first in ("fc_norm", "head") or name.startswith("patch_embed.token_emb")
            layers = 0
        decay = 0.1 if decays(name, parameter, ("cls_token", "pos_embed")) else 0.0
        assert found[name] == (pytest.approx(0.65**layers), decay), name
    assert found["patch_embed.proj.weight"][0] == pytest.approx(0.0037, abs=5e-5)


def test_supervised_training_has_one_rate_for_all_layers() -> None:
    model = vit(None)
    found = groups(model, resolved("seit-imagenet"))
    for name, parameter in model.named_parameters():
        decay = 0.1 if decays(name, parameter, ("cls_token", "pos_embed")) else 0.0
        assert found[name] == (1.0, decay), name


def masked() -> MaskedTokenModel:
    sizes = {"width": WIDTH, "depth": 2, "heads": 1, "decoder_width": 32, "decoder_depth": 1}
    config = MaskedTokenConfig(codebook_size=20, channels=4, decoder_heads=1, **sizes)
    torch.manual_seed(0)
    return MaskedTokenModel(config)


def test_pretraining_decays_the_learned_tokens_and_positions_and_no_bias() -> None:
    model = masked()
    found = groups(model, resolved("pretrain-imagenet"))
    for name, parameter in model.named_parameters():
        decay = 0.05 if decays(name, parameter, ("mlm_layer.bias",)) else 0.0
        assert found[name] == (1.0, decay), name
    learned = ("cls_token", "mask_token_label", "decoder_pos_embed_learned")
    assert {found[name] for name in learned} == {(1.0, 0.05)}


def test_a_masked_token_model_begins_as_the_published_one() -> None:
    model = masked()
    assert not model.mask_token_label.any()
    assert not model.decoder_pos_embed_learned.any()
    assert 0.01 < float(model.cls_token.detach().std()) < 0.03
    bound = (4 * 2 * 2) ** -0.5  # torch's own, by the inputs of a place
    weights = model.patch_embed.proj.weight.detach()
    assert 0.97 * bound < float(weights.abs().max()) <= bound
    assert model.patch_embed.proj.bias.detach().any()


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_rates_of_a_published_recipe_begin_peak_and_end_where_theirs_do(name: str) -> None:
    settings = resolved(name)
    config = config_of(settings)
    optimizer = optimiser_of(config, vit(20))
    schedule = schedule_of(config, optimizer)
    assert max(group["lr"] for group in optimizer.param_groups) == pytest.approx(settings["warmup_lr"])
    rates = []
    for step in range(1, config.steps + 1):
        schedule.step_update(step)
        rates.append({group.get("lr_scale", 1.0): group["lr"] for group in optimizer.param_groups})
    assert max(rate[1.0] for rate in rates) == pytest.approx(settings["learning_rate"])
    assert rates[49][1.0] == pytest.approx(settings["learning_rate"]), "the warm-up ends"
    for scale, rate in rates[-1].items():
        ends = settings["min_lr"] * scale
        assert ends <= rate <= ends + 1e-5 * settings["learning_rate"] * scale
