"""The display that commands which train on images share: a run's progress, and notes."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from .console import counted, echo, human_seconds
from .progress import err, progress_bar

if TYPE_CHECKING:
    from tokenstore.networks.runs import ResumableRun

_LINE_SECONDS = 60.0
"""The seconds from one line to the next where stderr is no terminal."""


def note_unless_held_out(count: int) -> None:
    """Print a note if no image is held out."""
    if not count:
        echo("note: no image is held out, so nothing will be evaluated; raise --held-out")


class RunDisplay:
    """The display of a training run: a progress bar, or a line a minute where stderr is no terminal."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._steps = 0
        self._total: int | None = None
        self._printed = time.monotonic()

    def __enter__(self) -> RunDisplay:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stack.close()
        if self._total is not None and kind is not None and issubclass(kind, KeyboardInterrupt):
            echo(f"stopped after step {self._steps:,}; --resume continues the run", err=True)

    def begin(self, steps: int) -> None:
        """Show the bar of a run of so many steps; without this call, nothing is printed."""
        self._total = steps
        self._bar = self._stack.enter_context(progress_bar("steps", lines=False))
        self._task = self._bar.add_task("training", total=steps, note="")

    def on_step(self, steps: int, seconds: float, text: str) -> None:
        """Show that so many steps are done, after so many seconds, and the figures of the last."""
        self._steps = steps
        if self._total is None:
            return
        self._bar.update(self._task, completed=steps, note=text)
        if not err.is_terminal and time.monotonic() - self._printed > _LINE_SECONDS:
            self._printed = time.monotonic()
            echo(f"step {steps:,} of {self._total:,}: {text}, {human_seconds(seconds)}")

    def end(self, trained: Any) -> None:
        """Print a run's result, which has `steps`, `seconds` and `weights`."""
        if self._total is not None:
            echo(f"{counted(trained.steps, 'step')} in {human_seconds(trained.seconds)}: {trained.weights}")


def show_training(
    train: Callable[..., Any],
    described: Callable[[Any], str],
    print_images: Callable[[Any, Any], None],
    print_quality: Callable[[int, Any], None],
) -> None:
    """Call `train` with callbacks that print, and print its result.

    `described` gives the text of a step. `print_images` is called with the run and the listed images, and
    `print_quality` with the steps done and the figures of an evaluation.
    """
    display = RunDisplay()

    def begin(run: ResumableRun[Any, Any], listed: Any) -> None:
        print_images(run, listed)
        display.begin(run.config.steps)

    def on_step(result: Any) -> None:
        display.on_step(result.step, result.seconds, described(result))

    with display:
        trained = train(on_start=begin, on_step=on_step, on_evaluation=print_quality)
    display.end(trained)
