"""A whole training run in a folder: steps, checkpoints, log, and what came of it."""

from __future__ import annotations

import copy
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tokenstore.errors import SampleError, TokenizerError
from tokenstore.sources.images import ImageOptions, decode_image, load_image
from tokenstore.tokenizers.conv_vq import ConvVQTokenizer
from tokenstore.tokenizers.quality import Quality, evaluate
from tokenstore.tokenizers.training import LOG, STATE, StepResult, Trainer
from tokenstore.tokenizers.training_images import ImageRef, ImageSet

EVALUATION = "evaluation.json"
SAMPLES = "samples.png"
_LOGGED_STEPS = 10
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

    Every `evaluate_steps` (0: only at the end) the averaged weights are evaluated and pictured. Ctrl-C and
    SIGTERM stop it after a step, which is kept; a crash loses what came after the last checkpoint. Raises
    TokenizerError where the folder holds a run and `resume` is false.
    """
    out = trainer.out
    if resume:
        trainer.restore()
    elif (out / STATE).exists():
        raise TokenizerError(
            f"{out}: a run is there. Go on with it by --resume, or train into another folder"
        )
    out.mkdir(parents=True, exist_ok=True)
    cut_log(out / LOG, trainer.step)
    saved = time.monotonic()
    evaluated = range(evaluate_steps, trainer.config.steps, evaluate_steps) if evaluate_steps else ()
    with (out / LOG).open("a") as log, deferred_interrupts() as interrupted:
        for result in trainer.run():
            on_step(result)
            if result.step % _LOGGED_STEPS == 0:
                log.write(json.dumps(asdict(result)) + "\n")
                log.flush()
            if time.monotonic() - saved > checkpoint_seconds:
                trainer.save()
                saved = time.monotonic()
            if result.step in evaluated:
                on_evaluation(result.step, evaluate_run(trainer, images, evaluate_images))
            if interrupted.is_set():
                trainer.save()
                raise KeyboardInterrupt
    trainer.save()
    quality = evaluate_run(trainer, images, evaluate_images)
    on_evaluation(trainer.step, quality)
    return quality


@contextmanager
def deferred_interrupts() -> Iterator[threading.Event]:
    """Turn Ctrl-C and SIGTERM into an event, to stop a run between two steps; a second stops it at once."""
    interrupted = threading.Event()

    def note(*_: object) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()

    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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


def cut_log(path: Path, step: int) -> None:
    """Drop what the log says of steps that will be done again."""
    if path.exists():
        lines = [line for line in path.read_text().splitlines() if _step_of(line) <= step]
        path.write_text("".join(line + "\n" for line in lines))


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):  # a line that a crash cut off
        return float("inf")
