"""Small stores and networks for tests of training; `main` is a program of one step in several processes."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

import tokenstore
from helpers.stores import write_store
from seitpp_models.networks.masking import MaskRatio
from seitpp_models.networks.mtm import masked_token_config
from seitpp_models.networks.segmentation import TokenSegmenter
from seitpp_models.training.augmentations import Augmentation, training_recipe
from seitpp_models.training.inputs import training_samples
from seitpp_models.training.network_run import NetworkRun
from seitpp_models.training.optimisers import OptimiserConfig
from seitpp_models.training.tasks import Classification, MaskedTokens, Segmentation, Task
from seitpp_models.weights.files import TrainedModel, build_model
from tokenstore.format import Preprocessing
from tokenstore.loading.loader import TokenLoader

CODES, CHANNELS, GRID, CLASSES = 16, 8, (6, 6), 4
SAMPLES = 96
PREPARED = Preprocessing(48, 48, "crop")
VIT = {
    "size": "tiny",
    "depth": 2,
    "embed_dim": 32,
    "num_heads": 2,
    "grid": GRID,
    "patch": 2,
    "channels": CHANNELS,
    "codebook_size": CODES,
    "embedding_dropout": 0.0,
    "num_classes": CLASSES,
}
MASKED = asdict(
    masked_token_config(
        "tiny", depth=2, width=32, heads=2, decoder_width=32, decoder_depth=1, codebook_size=CODES,
        channels=CHANNELS, grid=GRID, dropout=0.0,
    )
)  # fmt: skip


def codebook() -> np.ndarray[Any, Any]:
    """Return the codebook of the stores."""
    vectors = np.random.default_rng(7).standard_normal((CODES, CHANNELS)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def write_labelled(path: Path, samples: int = SAMPLES, **spec: Any) -> Path:
    """Write grids whose left halves repeat the class's code, in splits train and val, with label maps."""
    rng = np.random.default_rng(3)
    splits = {}
    for name, count in (("train", samples), ("val", 24)):
        labels = (np.arange(count) % CLASSES).astype(np.int32)
        codes = rng.integers(CLASSES, CODES, (count, *GRID)).astype(np.uint8)
        codes[:, :, :3] = labels[:, None, None]
        masks = np.full((count, 12, 12), CLASSES, np.uint8)
        masks[:, :, :6] = labels[:, None, None]
        masks[:, 0] = 255
        masks[::5, 4:] = 255
        splits[name] = (codes, labels, {"masks": masks})
    write_store(path, splits, CODES, codebook=codebook(), class_names=tuple("abcd"), **spec)
    return path


def network_run(
    store: Path, out: Path, task: str, accelerator: Accelerator, batch_size: int = 32, **changes: Any
) -> NetworkRun:
    """Return a run without augmentation or dropout, so that its gradients depend on the samples alone."""
    opened = tokenstore.open(store)
    vectors = torch.from_numpy(codebook())
    recipe = training_recipe(Augmentation.named("none"), vectors, GRID, gives_codes=True)
    torch.manual_seed(0)
    model: nn.Module
    if task == "masked":
        chosen: Task = MaskedTokens(recipe, 9, MaskRatio())
        kind, arguments = "masked", MASKED
    elif task == "maps":
        chosen = Segmentation(recipe, 255)
        backbone = {**VIT, "num_classes": 0}
        kind, arguments = "segmenter", {"backbone": backbone, "classes": CLASSES + 1, "head": "linear"}
    else:
        chosen = Classification(recipe, 0.1)
        kind, arguments = "vit", VIT
    model = build_model(kind, arguments)
    if isinstance(model, TokenSegmenter):
        model.head.norm = nn.Identity()  # which would see the samples of its own part and process alone
    loader = TokenLoader(
        training_samples(opened, "train", chosen.columns),
        batch_size // accelerator.num_processes,
        shuffle=True,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        num_threads=0,
    )
    settings = {"epochs": 2, "batch_size": batch_size, "learning_rate": 1e-3, "steps": 2 * len(loader)}
    return NetworkRun(
        OptimiserConfig(**(settings | changes)),
        TrainedModel.for_store(model, kind, arguments, opened.manifest),
        chosen,
        loader,
        out,
        {},
        accelerator,
    )


def gradients_and_rows(store: Path, task: str) -> dict[str, Any]:
    """Return gradients and loss of a first step, and the row numbers that this process sees in an epoch."""
    accelerator = Accelerator(cpu=True)
    run = network_run(store, Path("unused"), task, accelerator)
    batches = iter(run.batches())
    batch = next(batches)
    step = run.train_on(batch)(1, 0.0)
    named = run.network.model.named_parameters()
    gradients = {name: part.grad.clone() for name, part in named if part.grad is not None}
    rows = run.loader.last_rows.tolist()
    for _ in range(len(run.loader) - 1):
        next(batches)
        rows += run.loader.last_rows.tolist()
    return {"gradients": gradients, "loss": step.loss, "rows": rows, "rank": accelerator.process_index}


def main() -> None:
    """Save the gradients and rows of a task, given STORE TASK OUT."""
    torch.set_num_threads(1)
    found = gradients_and_rows(Path(sys.argv[1]), sys.argv[2])
    torch.save(found, f"{sys.argv[3]}.{found['rank']}")
