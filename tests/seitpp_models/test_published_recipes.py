"""The recipes that are named published have the settings of the published runs, as their code does them."""

from __future__ import annotations

from typing import Any

import pytest

from seitpp_models.training.resolving import resolve
from seitpp_models.training.settings import FinetuneSettings, PretrainSettings

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
