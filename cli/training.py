"""The display that commands which train on images share: a run's progress, and notes."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from rich.progress import TaskID

from .console import echo
from .progress import err, progress_bar

if TYPE_CHECKING:
    from tokenstore.networks.runs import ResumableRun

_LINE_SECONDS = 60.0
"""The seconds from one line to the next where stderr is no terminal."""


def note_unless_held_out(count: int) -> None:
    """Print a note if no image is held out."""
    if not count:
        echo("note: no image is held out, so nothing will be evaluated; raise --held-out")


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
            echo(f"stopped after step {run.step:,}; --resume continues the run", err=True)

    def begin(self, run: ResumableRun[Any, Any]) -> None:
        """Show the bar of a run."""
        self._run = run
        self._bar = self._stack.enter_context(progress_bar("steps", quiet=not run.writes, lines=False))
        self._task = self._bar.add_task("training", total=run.config.steps, note="")

    def on_step(self, result: Any) -> None:
        """Show a step."""
        run, text = self._run, self._described(result)
        assert run is not None
        self._bar.update(self._task, completed=result.step, note=text)
        if run.writes and not err.is_terminal and time.monotonic() - self._printed > _LINE_SECONDS:
            self._printed = time.monotonic()
            minutes = run.seconds / 60
            echo(f"step {result.step:,} of {run.config.steps:,}: {text}, {minutes:.1f} minutes")


def show_training(
    train: Callable[..., Any],
    described: Callable[[Any], str],
    print_images: Callable[[Any], None],
    print_quality: Callable[[int, Any], None],
) -> None:
    """Call `train` with callbacks that print, and print its result.

    `described` gives the text of a step. `print_images` is called with the listed images, and `print_quality`
    with the steps done and the figures of an evaluation.
    """
    progress = RunProgress(described)

    def begin(run: Any, listed: Any) -> None:
        print_images(listed)
        progress.begin(run)

    with progress:
        trained = train(on_start=begin, on_step=progress.on_step, on_evaluation=print_quality)
    echo(f"{trained.steps:,} steps in {trained.seconds / 60:.1f} minutes: {trained.weights}")


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
