"""The parts that commands which train share: listing images, showing a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click
import torch

from tokenstore.augment.devices import has_bfloat16
from tokenstore.errors import SourceError
from tokenstore.networks.runs import ResumableRun, StepResult
from tokenstore.sources import open_source
from tokenstore.sources.base import ImageSource
from tokenstore.tokenizers.train.images import ImageSet, list_images

from .console import err, progress_bar

_TOLD_SECONDS = 60.0
_Result = TypeVar("_Result", bound=StepResult)


def in_bfloat16(precision: str, device: str) -> bool:
    """Return whether a trainer computes in bfloat16; raise click.UsageError where it cannot do as asked."""
    if precision == "fp16":
        raise click.UsageError("--precision: expected auto, bf16 or fp32 here, found fp16")
    return precision == "bf16" or (precision == "auto" and has_bfloat16(torch.device(device)))


def listed_images(places: Sequence[str], held_out: float) -> ImageSet:
    """The images of some sources; raises SourceError where one holds ready codes."""
    sources = []
    for place in places:
        source = open_source(place)
        if not isinstance(source, ImageSource):
            raise SourceError(f"{place}: expected images to train on, found ready codes ({source.kind})")
        sources.append(source)
    return list_images(sources, held_out)


def note_unless_held_out(count: int) -> None:
    if not count:
        click.echo("note: no image is held out, so nothing will be evaluated; raise --held-out")


def shown(
    run: ResumableRun[Any, _Result],
    train: Callable[[Callable[[_Result], None]], object],
    described: Callable[[_Result], str],
) -> None:
    """Train, `train(on_step)`, with a progress bar, or a line a minute where there is no terminal."""
    steps: int = run.config.steps
    with progress_bar("steps", quiet=not run.writes) as bar:
        task = bar.add_task("training", total=steps, note="")
        told = time.monotonic()

        def on_step(result: _Result) -> None:
            nonlocal told
            text = described(result)
            bar.update(task, completed=result.step, note=text)
            if run.writes and not err.is_terminal and time.monotonic() - told > _TOLD_SECONDS:
                told = time.monotonic()
                click.echo(f"step {result.step:,} of {steps:,}: {text}, {run.seconds / 60:.1f} minutes")

        try:
            train(on_step)
        except KeyboardInterrupt:
            if run.writes:
                goes_on = f"the same command goes on by {run.resume_option}"
                click.echo(f"stopped after step {run.step:,}; {goes_on}", err=True)
            raise
