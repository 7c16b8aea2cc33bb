"""The front door of TokenAdapt's trainer: a run in a folder, with checkpoints, a log and an evaluation.

SeiT++, https://arxiv.org/abs/2312.10105, section 3.2.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypedDict, Unpack

import numpy as np
import torch
from torch import Tensor

from seitpp_models.adapter.evaluation import AdapterQuality, evaluate_adapter
from seitpp_models.adapter.pairs import Pictures
from seitpp_models.adapter.trainer import AdapterTrainer, AdapterTrainingConfig, StepResult
from tokenstore.augment import save_adapter
from tokenstore.networks.precision import Precision, computes_in_bfloat16
from tokenstore.networks.runs import RunOptions, run_steps
from tokenstore.networks.threads import torch_threads
from tokenstore.sources import ImageSource
from tokenstore.sources.images import ImageOptions, Resize
from tokenstore.tokenizers import Tokenizer, check_tokenizer, load_tokenizer
from tokenstore.tokenizers.registry import check_device
from tokenstore.tokenizers.train.images import ImageRef, ImageSet, open_image_set

__all__ = [
    "EVALUATION",
    "AdapterSettings",
    "TrainedAdapter",
    "evaluate_run",
    "held_out_pictures",
    "run_training",
    "train_tokenadapt",
]

EVALUATION = "evaluation.json"
"""The file in a run's folder with the last evaluation."""
_DEFAULT = AdapterTrainingConfig()


@dataclass(frozen=True)
class TrainedAdapter:
    """A TokenAdapt that was trained and written."""

    weights: Path
    """The file of averaged weights, for `tokenstore.augment.load_adapter`."""
    steps: int
    """The steps of the run."""
    seconds: float
    """The seconds of training, all parts of a resumed run together."""
    quality: dict[str, AdapterQuality]
    """The quality on held-out images by transform; empty if no image is held out."""


class AdapterSettings(TypedDict, total=False):
    """The settings of `train_tokenadapt`; a missing one has the default of `AdapterTrainingConfig`."""

    batch_size: int
    """The pairs of a step."""
    width: int
    """The channels of the networks, a multiple of 64."""
    image_size: int | None
    """The side in pixels of the square that an image becomes, as in the stores to augment.

    By default the tokenizer's.
    """
    resize: Resize
    """The way an image becomes a square, as in the stores to augment: squash (the default), crop or pad."""
    learning_rate: float
    """The peak of AdamW's learning rate."""
    seed: int
    """The seed of all draws."""


def train_tokenadapt(
    images: str | Path | ImageSource | Sequence[str | Path | ImageSource],
    out: str | Path,
    *,
    tokenizer: str | Tokenizer = "default",
    steps: int = _DEFAULT.steps,
    held_out: float = 0.1,
    precision: Precision = "bf16",
    device: str = "cpu",
    workers: int = 1,
    threads: int | None = None,
    evaluate_steps: int = 1000,
    evaluate_images: int = 64,
    checkpoint_minutes: float = 3.0,
    resume: bool = False,
    on_start: Callable[[AdapterTrainer, ImageSet], None] | None = None,
    on_step: Callable[[StepResult], None] | None = None,
    on_evaluation: Callable[[int, dict[str, AdapterQuality]], None] | None = None,
    **settings: Unpack[AdapterSettings],
) -> TrainedAdapter:
    """Train TokenAdapt for a tokenizer: it turns tokens of an image into those of the image augmented.

    Args:
        images: A source of images, the path or URL of one, or several of both.
        out: The file of averaged weights, for `tokenstore.augment.load_adapter`. The folder OUT.run gets the
            log, the evaluation, the checkpoint to resume from, and `config.yaml`, how the run was begun.
        tokenizer: The tokenizer of the stores to augment, or its name.
        steps: The number of steps; by default 4000.
        held_out: The share of the images to evaluate on, besides splits named val or test.
        precision: The arithmetic of the networks: bf16, fp32, or auto for bf16 where the device multiplies
            it natively. Weights are float32.
        device: The device that the networks run on, cpu or cuda.
        workers: The processes that make pairs of images; 0 makes them between the steps.
        threads: The threads that compute on a CPU during the call; None leaves their number as it is.
        evaluate_steps: The steps from one evaluation to the next; 0 evaluates only at the end.
        evaluate_images: The most held-out images to evaluate on.
        checkpoint_minutes: The minutes from one checkpoint to the next.
        resume: True to go on from the checkpoint in OUT.run, with the same other arguments.
        on_start: Called before the first step with the run and its images.
        on_step: Called after each step with its figures.
        on_evaluation: Called after each evaluation with the steps done and the quality by transform.
        **settings: See `AdapterSettings`.

    Raises:
        ArgumentError: The precision is none of the three.
        SourceError: The images cannot be used.
        TokenizerError: The tokenizer or the device cannot be used, or nothing is left to train on.
        AdapterError: The tokenizer's codes have neither vectors nor numbers, or are lists; a size is out of
            range; or the folder holds a run of other arguments, or any run and `resume` is false.
        KeyboardInterrupt: After Ctrl-C or SIGTERM; the steps done are saved.
    """
    config = _config(steps, computes_in_bfloat16(precision, device), settings)
    options = RunOptions(resume, 60 * checkpoint_minutes, evaluate_steps)
    with torch_threads(threads):
        trainer, image_set = _prepared(config, images, held_out, tokenizer, Path(out), workers, device)
        with trainer.locked():
            (on_start or _ignore)(trainer, image_set)
            quality = run_training(trainer, image_set, options, evaluate_images, on_step, on_evaluation)
            save_adapter(trainer.average, Path(out))
    return TrainedAdapter(Path(out), steps, trainer.seconds, quality)


def _prepared(
    config: AdapterTrainingConfig,
    images: str | Path | ImageSource | Sequence[str | Path | ImageSource],
    held_out: float,
    tokenizer: str | Tokenizer,
    out: Path,
    workers: int,
    device: str,
) -> tuple[AdapterTrainer, ImageSet]:
    check_device(device)
    image_set = open_image_set(images, held_out)
    folder = Path(f"{out}.run")
    encoder = _loaded(tokenizer)
    return AdapterTrainer(config, image_set, encoder, folder, workers=workers, device=device), image_set


def _config(steps: int, bfloat16: bool, settings: AdapterSettings) -> AdapterTrainingConfig:
    warmup = max(1, min(_DEFAULT.warmup_steps, steps // 8))
    return AdapterTrainingConfig(steps=steps, warmup_steps=warmup, bfloat16=bfloat16, **settings)


def _loaded(tokenizer: str | Tokenizer) -> Tokenizer:
    """Load a tokenizer by its name, or check one that was loaded; raise TokenizerError."""
    if isinstance(tokenizer, str):
        return load_tokenizer(tokenizer)
    check_tokenizer(tokenizer)
    return tokenizer


def _ignore(*_: object) -> None: ...


def run_training(
    trainer: AdapterTrainer,
    images: ImageSet,
    options: RunOptions,
    evaluate_images: int,
    on_step: Callable[[StepResult], None] | None = None,
    on_evaluation: Callable[[int, dict[str, AdapterQuality]], None] | None = None,
) -> dict[str, AdapterQuality]:
    """Train to the last step and return the quality on up to `evaluate_images` held-out images.

    An evaluation is of the averaged weights.

    Raises AdapterError if the folder holds a run that is not to be resumed.
    """
    return run_steps(
        trainer,
        options,
        on_step=on_step or _ignore,
        evaluate=lambda: evaluate_run(trainer, images, evaluate_images),
        on_evaluation=on_evaluation or _ignore,
    )


def evaluate_run(trainer: AdapterTrainer, images: ImageSet, count: int) -> dict[str, AdapterQuality]:
    """Evaluate the averaged weights on held-out images, by transform, and write the result to a file."""
    refs = [*images.held_out_photographs, *images.held_out_thumbnails]
    if not refs:
        return {}
    pictures = held_out_pictures(refs, trainer.options, count)
    quality = evaluate_adapter(trainer.average, trainer.tokenizer, pictures)
    report = {"step": trainer.step, "seconds": round(trainer.seconds), "images": len(pictures)}
    facts = {name: asdict(figures) for name, figures in quality.items()}
    (trainer.out / EVALUATION).write_text(json.dumps(report | facts, indent=2) + "\n")
    return quality


def held_out_pictures(refs: Sequence[ImageRef], options: ImageOptions, count: int, seed: int = 0) -> Tensor:
    """Return up to `count` pictures (n, 3, side, side) uint8 of images; small ones are laid side by side."""
    pictures = Pictures(refs, options)
    rng = np.random.default_rng((seed, len(refs)))
    return torch.stack([pictures.draw(rng) for _ in range(min(count, len(refs)))])
