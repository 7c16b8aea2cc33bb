"""A whole run that trains a TokenAdapt, in a folder: steps, checkpoints, log, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor

from seitpp_models.adapter.evaluation import AdapterQuality, evaluate_adapter
from seitpp_models.adapter.pairs import Pictures
from seitpp_models.adapter.trainer import AdapterTrainer, StepResult
from tokenstore.networks.runs import run_steps
from tokenstore.tokenizers.train.images import ImageRef, ImageSet

__all__ = ["evaluate_run", "held_out_pictures", "train"]

EVALUATION = "evaluation.json"


def train(
    trainer: AdapterTrainer,
    images: ImageSet,
    *,
    resume: bool,
    checkpoint_seconds: float,
    evaluate_steps: int,
    evaluate_images: int,
    on_step: Callable[[StepResult], None],
    on_evaluation: Callable[[int, dict[str, AdapterQuality]], None],
) -> dict[str, AdapterQuality]:
    """Train to the last step and return the quality on up to `evaluate_images` held-out images.

    Every `evaluate_steps` (0: only at the end) the averaged weights are evaluated. Raises AdapterError where
    the folder holds a run and `resume` is false.
    """
    return run_steps(
        trainer,
        resume=resume,
        checkpoint_seconds=checkpoint_seconds,
        evaluate_steps=evaluate_steps,
        on_step=on_step,
        evaluate=lambda: evaluate_run(trainer, images, evaluate_images),
        on_evaluation=on_evaluation,
    )


def evaluate_run(trainer: AdapterTrainer, images: ImageSet, count: int) -> dict[str, AdapterQuality]:
    """Quality of the averaged weights on held-out images by transform, also written to a file."""
    refs = [*images.held_out_photographs, *images.held_out_thumbnails]
    if not refs:
        return {}
    pictures = held_out_pictures(refs, trainer.tokenizer.image_size, count)
    quality = evaluate_adapter(trainer.average, trainer.tokenizer, pictures)
    report = {"step": trainer.step, "seconds": round(trainer.seconds), "images": len(pictures)}
    facts = {name: asdict(figures) for name, figures in quality.items()}
    (trainer.out / EVALUATION).write_text(json.dumps(report | facts, indent=2) + "\n")
    return quality


def held_out_pictures(refs: Sequence[ImageRef], side: int, count: int, seed: int = 0) -> Tensor:
    """Up to `count` of the images (n, 3, side, side) uint8, or that many of small ones laid side by side."""
    pictures = Pictures(refs, side)
    rng = np.random.default_rng((seed, len(refs)))
    return torch.stack([pictures.draw(rng) for _ in range(min(count, len(refs)))])
