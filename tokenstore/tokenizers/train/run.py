"""The call behind `tokenstore train-tokenizer`: a training run in a folder, with checkpoints and a log."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tokenstore.errors import SampleError
from tokenstore.networks.precision import Precision, computes_in_bfloat16
from tokenstore.networks.runs import RunOptions, run_steps
from tokenstore.networks.threads import torch_threads
from tokenstore.sources.base import ImageSource
from tokenstore.sources.images import ImageOptions, decode_image, load_image
from tokenstore.tokenizers.image_tokenizer import ImageTokenizer
from tokenstore.tokenizers.kinds.conv_vq import ConvVQConfig
from tokenstore.tokenizers.kinds.symmetric_vq import SymmetricVQConfig
from tokenstore.tokenizers.quality import Quality, evaluate
from tokenstore.tokenizers.registry import check_device
from tokenstore.tokenizers.train.images import ImageRef, ImageSet, open_image_set
from tokenstore.tokenizers.train.trainer import WEIGHTS, StepResult, Trainer, TrainingConfig

__all__ = [
    "EVALUATION",
    "SAMPLES",
    "TrainedTokenizer",
    "TrainingSettings",
    "evaluate_run",
    "run_training",
    "train_tokenizer",
]

EVALUATION = "evaluation.json"
"""The file in a run's folder with the last evaluation."""
SAMPLES = "samples.png"
"""The file in a run's folder with pictures of held-out images."""
_PICTURES = 8
_DEFAULT = TrainingConfig()


@dataclass(frozen=True)
class TrainedTokenizer:
    """A tokenizer that was trained and written."""

    weights: Path
    """The file of averaged weights; `conv-vq-symmetric:WEIGHTS` names the tokenizer, or `conv-vq:WEIGHTS`."""
    steps: int
    """The steps of the run."""
    seconds: float
    """The seconds of training, all parts of a resumed run together."""
    quality: dict[str, Quality]
    """The quality on held-out `photographs` and `thumbnails`, those of which there are any."""


class TrainingSettings(TypedDict, total=False):
    """The settings of `train_tokenizer`; a missing one has the default of `TrainingConfig`."""

    name: str
    """The name of the tokenizer in the manifests of stores; by default conv-vq-8x-own."""
    codebook_size: int
    """The number of codes of the codebook."""
    symmetric: bool
    """True, the default, for a tokenizer whose codes of a mirror image are a look-up away; False for one of
    the kind `conv-vq`."""
    gradient: float
    """The weight of the error of gradients beside that of pixels; by default 0."""
    scale_equivariance: float
    """The weight of the loss of images of half the size, decoded of averaged embeddings; by default 0."""
    held_out: float
    """The share of the images to evaluate on, chosen by a hash of their file names.

    Splits named val or test are held out whole.
    """
    photographs: int
    """The crops of photographs in a batch."""
    thumbnails: int
    """The crops of images below 128 pixels in a batch."""
    learning_rate: float
    """The peak of AdamW's learning rate."""
    seed: int
    """The seed of all draws."""


def train_tokenizer(
    images: str | Path | ImageSource | Sequence[str | Path | ImageSource],
    out: str | Path,
    *,
    steps: int = _DEFAULT.steps,
    precision: Precision = "bf16",
    device: str = "cpu",
    threads: int | None = None,
    evaluate_steps: int = 2000,
    evaluate_images: int = 256,
    checkpoint_minutes: float = 3.0,
    resume: bool = False,
    on_start: Callable[[Trainer, ImageSet], None] | None = None,
    on_step: Callable[[StepResult], None] | None = None,
    on_evaluation: Callable[[int, dict[str, Quality]], None] | None = None,
    **settings: Unpack[TrainingSettings],
) -> TrainedTokenizer:
    """Train a convolutional tokenizer on images, in a folder.

    Args:
        images: A source of images, the path or URL of one, or several of both.
        out: The folder of the run. It gets `weights.safetensors` (averaged weights), `evaluation.json`,
            `samples.png` (held-out images and their reconstructions), `log.jsonl`, `state.pt` (the checkpoint
            to resume from) and `config.yaml` (how the run was begun).
        steps: The number of steps; by default 11000.
        precision: The arithmetic of the networks: bf16, fp32, or auto for bf16 where the device multiplies
            it natively. Weights are float32.
        device: The device that the networks run on, cpu or cuda.
        threads: The threads that compute on a CPU during the call; None leaves their number as it is.
        evaluate_steps: The steps from one evaluation to the next; 0 evaluates only at the end.
        evaluate_images: The most held-out images of each kind, photographs and thumbnails, to evaluate on.
        checkpoint_minutes: The minutes from one checkpoint to the next.
        resume: True to go on from the checkpoint in `out`, with the same other arguments.
        on_start: Called before the first step with the run and its images.
        on_step: Called after each step with its figures.
        on_evaluation: Called after each evaluation with the steps done and the quality by kind of image.
        **settings: See `TrainingSettings`.

    Raises:
        ArgumentError: The precision is none of the three.
        SourceError: The images cannot be used.
        TokenizerError: The device cannot be used, nothing is left to train on, or `out` holds a run of other
            arguments, or any run and `resume` is false.
        KeyboardInterrupt: After Ctrl-C or SIGTERM; the steps done are saved.
    """
    config = replace(_config(**settings), bfloat16=computes_in_bfloat16(precision, device)).shortened(steps)
    trainer, image_set = _prepared(images, Path(out), config, device)
    options = RunOptions(resume, 60 * checkpoint_minutes, evaluate_steps)
    with torch_threads(threads), trainer.locked():
        if on_start is not None:
            on_start(trainer, image_set)
        quality = run_training(trainer, image_set, options, evaluate_images, on_step, on_evaluation)
        return TrainedTokenizer(Path(out) / WEIGHTS, config.steps, trainer.seconds, quality)


def _config(
    *,
    name: str = "conv-vq-8x-own",
    codebook_size: int = _DEFAULT.model.codebook_size,
    symmetric: bool = True,
    **settings: Any,
) -> TrainingConfig:
    plain = replace(ConvVQConfig(), name=name, codebook_size=codebook_size)
    model = SymmetricVQConfig.of_codes(name, codebook_size) if symmetric else plain
    return TrainingConfig(model=model, **settings)


def _prepared(
    images: str | Path | ImageSource | Sequence[str | Path | ImageSource],
    out: Path,
    config: TrainingConfig,
    device: str,
) -> tuple[Trainer, ImageSet]:
    check_device(device)
    image_set = open_image_set(images, config.held_out)
    return Trainer(config, image_set, out, device), image_set


def _ignore(*_: object) -> None: ...


def run_training(
    trainer: Trainer,
    images: ImageSet,
    options: RunOptions,
    evaluate_images: int,
    on_step: Callable[[StepResult], None] | None = None,
    on_evaluation: Callable[[int, dict[str, Quality]], None] | None = None,
) -> dict[str, Quality]:
    """Train to the last step and return the quality on up to `evaluate_images` held-out images of each kind.

    An evaluation is of the averaged weights, and writes pictures too.

    Raises TokenizerError if the folder holds a run that is not to be resumed.
    """
    return run_steps(
        trainer,
        options,
        on_step=on_step or _ignore,
        evaluate=lambda: evaluate_run(trainer, images, evaluate_images),
        on_evaluation=on_evaluation or _ignore,
    )


def evaluate_run(trainer: Trainer, images: ImageSet, count: int) -> dict[str, Quality]:
    """Evaluate the averaged weights by kind of held-out image, and write the result and pictures to files."""
    tokenizer = copy.deepcopy(trainer.average).eval().tokenizer()
    quality: dict[str, Quality] = {}
    samples: list[Tensor] = []
    with torch_threads():
        for kind, refs in (
            ("photographs", images.held_out_photographs),
            ("thumbnails", images.held_out_thumbnails),
        ):
            views = held_out_views(refs, tokenizer, count)
            if views:
                quality[kind] = evaluate(tokenizer, views)
                samples = samples or views[:_PICTURES]
    facts = {kind: asdict(figures) for kind, figures in quality.items()}
    report = {"step": trainer.step, "seconds": round(trainer.seconds), **facts}
    (trainer.out / EVALUATION).write_text(json.dumps(report, indent=2) + "\n")
    if samples:
        picture_of(tokenizer, samples).save(trainer.out / SAMPLES)
    return quality


def held_out_views(refs: Sequence[ImageRef], tokenizer: ImageTokenizer, count: int) -> list[Tensor]:
    """Read up to `count` images, evenly spaced, each (3, H, W) uint8; unreadable images are left out.

    Photographs are squashed to the tokenizer's image size. Thumbnails keep their size, rounded down to a
    multiple of the tokenizer's stride.
    """
    subset = [
        refs[index] for index in np.linspace(0, len(refs) - 1, min(count, len(refs))).round().astype(int)
    ]
    views = []
    for ref in subset:
        try:
            data = ref.data()
            width, height = (
                min(tokenizer.image_size, side // tokenizer.stride * tokenizer.stride)
                for side in load_image(data).size
            )
            if min(width, height) < tokenizer.stride:
                continue
            larger = max(width, height) == tokenizer.image_size
            size = tokenizer.image_size if larger else (height, width)
            pixels = decode_image(data, ImageOptions(size)).pixels
        except SampleError:
            continue
        views.append(torch.from_numpy(pixels).permute(2, 0, 1).contiguous())
    return views


def picture_of(tokenizer: ImageTokenizer, images: Sequence[Tensor], gap: int = 4) -> Image.Image:
    """Draw a sheet with images (3, H, W) uint8 of any sizes, each above the tokenizer's reconstruction."""
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    shape = (2 * (height + gap) + gap, len(images) * (width + gap) + gap, 3)
    sheet = np.full(shape, 255, np.uint8)
    for column, image in enumerate(images):
        rebuilt = tokenizer.decode(tokenizer.encode(image[None]))[0].cpu()
        for row, picture in enumerate((image, rebuilt)):
            top, left = gap + row * (height + gap), gap + column * (width + gap)
            sheet[top : top + picture.shape[1], left : left + picture.shape[2]] = picture.permute(1, 2, 0)
    return Image.fromarray(sheet)
