"""The parts that commands which train share: listing images, showing a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, TypeVar

import click
import torch
from rich.progress import TaskID

from tokenstore.networks.precision import has_bfloat16
from tokenstore.networks.runs import ResumableRun, StepResult
from tokenstore.tokenizers.train.images import ImageSet, list_images, open_images

from .console import err, progress_bar

_LINE_SECONDS = 60.0
_Result = TypeVar("_Result", bound=StepResult)


def in_bfloat16(precision: str, device: str) -> bool:
    """Return whether a trainer computes in bfloat16; raise click.UsageError where it cannot do as asked."""
    if precision == "fp16":
        raise click.UsageError("--precision: expected auto, bf16 or fp32 here, found fp16")
    return precision == "bf16" or (precision == "auto" and has_bfloat16(torch.device(device)))


def listed_images(places: Sequence[str], held_out: float) -> ImageSet:
    """List the images of some sources; raise SourceError where one holds ready codes."""
    return list_images([open_images(place) for place in places], held_out)


def note_unless_held_out(count: int) -> None:
    """Print a note if no image is held out."""
    if not count:
        click.echo("note: no image is held out, so nothing will be evaluated; raise --held-out")


class RunProgress:
    """The display of a training run: a progress bar, or a line a minute where stderr is no terminal."""

    def __init__(self, described: Callable[[Any], str]) -> None:
        self._described = described
        self._run: ResumableRun[Any, Any] | None = None
        self._stack = ExitStack()
        self._printed = time.monotonic()

    def __enter__(self) -> RunProgress:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stack.close()
        run = self._run
        if run is not None and run.writes and kind is not None and issubclass(kind, KeyboardInterrupt):
            goes_on = f"the same command goes on by {run.resume_option}"
            click.echo(f"stopped after step {run.step:,}; {goes_on}", err=True)

    def begin(self, run: ResumableRun[Any, Any]) -> None:
        """Show the bar of a run."""
        self._run = run
        self._bar = self._stack.enter_context(progress_bar("steps", quiet=not run.writes))
        self._task = self._bar.add_task("training", total=run.config.steps, note="")

    def on_step(self, result: Any) -> None:
        """Show a step."""
        run, text = self._run, self._described(result)
        assert run is not None
        self._bar.update(self._task, completed=result.step, note=text)
        if run.writes and not err.is_terminal and time.monotonic() - self._printed > _LINE_SECONDS:
            self._printed = time.monotonic()
            minutes = run.seconds / 60
            click.echo(f"step {result.step:,} of {run.config.steps:,}: {text}, {minutes:.1f} minutes")


class StageProgress:
    """The display of work in stages: a progress bar for each."""

    def __init__(self, unit: str) -> None:
        self._bar = progress_bar(unit)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> StageProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def on_progress(self, stage: str, done: int, total: int) -> None:
        """Show how much of a stage is done."""
        if stage not in self._tasks:
            self._tasks[stage] = self._bar.add_task(stage, total=total, note="")
        self._bar.update(self._tasks[stage], completed=done)


def shown(
    run: ResumableRun[Any, _Result],
    train: Callable[[Callable[[_Result], None]], object],
    described: Callable[[_Result], str],
) -> None:
    """Train, `train(on_step)`, and show the run."""
    with RunProgress(described) as progress:
        progress.begin(run)
        train(progress.on_step)
