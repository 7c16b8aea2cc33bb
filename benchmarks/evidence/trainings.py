"""The cells that train networks on tokens: pre-training, fine-tuning, segmentation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import tokenstore
from evidence.cells import Cell, EvidenceError, Workplace
from evidence.stores import store_place, stored_bytes
from evidence.view_trainings import train_on_views
from evidence.views import stored_views
from seitpp_models.evaluation import Batches, evaluate_store
from seitpp_models.training import NetworkStep, TrainingResult, finetune, pretrain, segment
from seitpp_models.weights.files import WEIGHTS

__all__ = ["TRAINING_SAMPLES", "OnStep", "epochs_of", "place_of_model", "run_settings", "train"]

OnStep = Callable[[NetworkStep], None]
"""A progress callback, which is called after each step."""

_TRAINERS: Mapping[str, Callable[..., TrainingResult]] = {
    "pretrain": pretrain,
    "finetune": finetune,
    "segment": segment,
}
_OF_NEW_NETWORKS = ("model", "depth", "patch", "input")
"""The settings that a pre-trained network has decided."""
_SLACK = 0.02
"""The share of the steps by which whole epochs may differ from them."""
TRAINING_SAMPLES = 5_000
"""The most training samples that a trained network is evaluated on, to tell how far it overfits."""


def train(cell: Cell, work: Workplace, on_step: OnStep | None = None) -> dict[str, Any]:
    """Train a network on the store of a cell, or go on with it, and return its figures, bytes and seconds."""
    decisions, out = work.filled(cell), work.place(cell)
    place = store_place(cell, work)
    store = tokenstore.open(place)
    samples = len(store["train"])
    settings = run_settings(decisions, samples, work)
    if "start" in cell.needs:
        settings = {name: value for name, value in settings.items() if name not in _OF_NEW_NETWORKS}
        settings["start"] = place_of_model(work.place(cell.needs["start"]))
    if "views" in cell.needs:
        views = stored_views(cell.needs["views"], work)
        result = train_on_views(cell.kind, store, out, views, settings, on_step)
    else:
        result = _TRAINERS[cell.kind](store, out, on_step=on_step, **settings)
    figures = {name: value for name, value in result.figures.items() if isinstance(value, float)}
    if cell.kind == "finetune":
        rows = np.linspace(0, samples - 1, min(samples, TRAINING_SAMPLES)).astype(np.int64)
        batches = Batches(settings["batch_size"], settings["loader_threads"], work.device or "cpu")
        on_training = evaluate_store(result.network, store, "train", row_numbers=rows, batches=batches)
        figures["training_top1"] = on_training["top1"]
    return {
        "figures": figures,
        "bytes": stored_bytes(place),
        "samples": samples,
        "steps": result.steps,
        "seconds": round(result.seconds, 1),
        "parameters": sum(parameter.numel() for parameter in result.network.model.parameters()),
        "fingerprint": store["train"].fingerprint,
    }


def run_settings(decisions: Mapping[str, Any], samples: int, work: Workplace) -> dict[str, Any]:
    """Return the settings of a run: those of the cell, its steps as epochs, and those of the machine.

    Raises EvidenceError if whole epochs of `samples` do not come near the steps.
    """
    settings = dict(decisions["settings"])
    if not isinstance(settings.get("batch_size"), int):
        raise EvidenceError(f"expected a batch_size, a number, found {settings.get('batch_size')}")
    epochs = epochs_of(decisions["steps"], samples, settings["batch_size"])
    on_cpu = work.device in (None, "cpu")
    of_machine = {"device": "cpu", "threads": work.threads, "loader_threads": 0} if on_cpu else {
        "device": work.device, "loader_threads": None
    }  # fmt: skip
    return {
        "resident": "ram",
        "evaluate_every": 0,
        **settings,
        **of_machine,
        "epochs": epochs,
        "warmup_epochs": decisions["warmup"] * epochs,
        "seed": decisions["seed"],
        "resume": True,
    }


def epochs_of(steps: int, samples: int, batch_size: int) -> int:
    """Return the epochs that take so many steps; raises EvidenceError if none come within two percent."""
    each = -(-samples // batch_size)
    epochs = max(1, round(steps / each))
    if abs(epochs * each - steps) > _SLACK * steps:
        raise EvidenceError(
            f"expected about {steps} steps, found {epochs * each} in {epochs} epochs of {samples} samples; "
            f"give a multiple of {each} steps, or another batch_size than {batch_size}"
        )
    return epochs


def place_of_model(folder: Path) -> Path:
    """Return the file of a trained network; raises EvidenceError if there is none."""
    if not (folder / WEIGHTS).is_file():
        raise EvidenceError(f"{folder / WEIGHTS}: expected a trained network, found nothing there")
    return folder / WEIGHTS
