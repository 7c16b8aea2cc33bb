"""A whole training run in a folder: steps, checkpoints, log, and what came of it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tokenstore.errors import SampleError
from tokenstore.networks.runs import run_steps
from tokenstore.sources.images import ImageOptions, decode_image, load_image
from tokenstore.tokenizers.kinds.conv_vq import ConvVQTokenizer
from tokenstore.tokenizers.quality import Quality, evaluate
from tokenstore.tokenizers.train.images import ImageRef, ImageSet
from tokenstore.tokenizers.train.trainer import StepResult, Trainer

EVALUATION = "evaluation.json"
SAMPLES = "samples.png"
_PICTURED = 8


def train(
    trainer: Trainer,
    images: ImageSet,
    *,
    resume: bool,
    checkpoint_seconds: float,
    evaluate_steps: int,
    evaluate_images: int,
    on_step: Callable[[StepResult], None],
    on_evaluation: Callable[[int, dict[str, Quality]], None],
) -> dict[str, Quality]:
    """Train to the last step and return the quality on up to `evaluate_images` held-out images of each kind.

    Every `evaluate_steps` (0: only at the end) the averaged weights are evaluated and pictured. Raises
    TokenizerError where the folder holds a run and `resume` is false.
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


def evaluate_run(trainer: Trainer, images: ImageSet, count: int) -> dict[str, Quality]:
    """Quality of the averaged weights by kind of held-out image, also written to files, with a picture."""
    threads = torch.get_num_threads()
    tokenizer = ConvVQTokenizer(copy.deepcopy(trainer.average).eval())
    quality: dict[str, Quality] = {}
    pictured: list[Tensor] = []
    for kind, refs in (
        ("photographs", images.held_out_photographs),
        ("thumbnails", images.held_out_thumbnails),
    ):
        views = held_out_views(refs, tokenizer, count)
        if views:
            quality[kind] = evaluate(tokenizer, views)
            pictured = pictured or views[:_PICTURED]
    torch.set_num_threads(threads)
    facts = {kind: asdict(figures) for kind, figures in quality.items()}
    report = {"step": trainer.step, "seconds": round(trainer.seconds), **facts}
    (trainer.out / EVALUATION).write_text(json.dumps(report, indent=2) + "\n")
    if pictured:
        picture_of(tokenizer, pictured).save(trainer.out / SAMPLES)
    return quality


def held_out_views(refs: Sequence[ImageRef], tokenizer: ConvVQTokenizer, count: int) -> list[Tensor]:
    """Up to `count` images, evenly spaced, each (3, H, W) uint8; those that cannot be read are left out.

    Photographs are squashed to the tokenizer's image size. Thumbnails keep their own, down to the next
    multiple of the tokenizer's stride.
    """
    chosen = [
        refs[index] for index in np.linspace(0, len(refs) - 1, min(count, len(refs))).round().astype(int)
    ]
    views = []
    for ref in chosen:
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


def picture_of(tokenizer: ConvVQTokenizer, images: Sequence[Tensor], gap: int = 4) -> Image.Image:
    """A sheet with images (3, H, W) uint8 of any sizes above what the tokenizer rebuilds of them."""
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    shape = (2 * (height + gap) + gap, len(images) * (width + gap) + gap, 3)
    sheet = np.full(shape, 255, np.uint8)
    for column, image in enumerate(images):
        rebuilt = tokenizer.decode(tokenizer.encode(image[None]))[0].cpu()
        for row, picture in enumerate((image, rebuilt)):
            top, left = gap + row * (height + gap), gap + column * (width + gap)
            sheet[top : top + picture.shape[1], left : left + picture.shape[2]] = picture.permute(1, 2, 0)
    return Image.fromarray(sheet)
