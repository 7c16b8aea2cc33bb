"""A training run on the terminal: its plan, a progress bar, evaluations and the result."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from ..console import echo
from ..progress import err, progress_bar

_SECONDS = 60.0
"""The seconds from one line to the next where stderr is no terminal."""


def show_run(train: Callable[..., Any], settings: Mapping[str, Any]) -> None:
    """Call `train(**settings)` and print its progress; of several processes, one prints."""
    display = _RunDisplay()
    with progress_bar("steps", lines=False) as bar:
        display.bar = bar
        try:
            result = train(
                **settings,
                on_begin=display.begin,
                on_step=display.step,
                on_evaluation=display.evaluation,
            )
        except KeyboardInterrupt:
            if display.task is not None:
                echo(f"stopped after step {display.steps:,}; --resume continues the run", err=True)
            raise
    if display.task is not None:
        echo(f"{result.steps:,} steps in {result.seconds / 60:.1f} minutes: {result.weights}")


class _RunDisplay:
    """The callbacks of a run, which print."""

    def __init__(self) -> None:
        self.bar: Any = None
        self.task: Any = None
        self.steps = 0
        self._total = 0
        self._printed = time.monotonic()

    def begin(self, plan: Any) -> None:
        """Print a run's plan (seitpp_models.training.TrainingPlan)."""
        echo(
            f"{plan.parameters / 1e6:.1f} M parameters, {plan.samples:,} samples, {plan.steps:,} steps of "
            f"{plan.batch_size} on {plan.processes} x {plan.device}, {plan.precision}"
        )
        if plan.evaluate_split is None:
            echo("note: nothing is evaluated, since the store has no other split to evaluate on")
        if plan.reference is not None:
            echo(f"{plan.reference[0]}: {plan.reference[1]:.4f} nats")
        self._total = plan.steps
        self.task = self.bar.add_task("training", total=plan.steps, note="")

    def step(self, result: Any) -> None:
        """Show a step (seitpp_models.training.NetworkStep): on the bar, or as a line a minute."""
        self.steps = result.step
        text = f"epoch {result.epoch:.2f}, loss {result.loss:.4f}, {100 * result.right:.1f} % right"
        self.bar.update(self.task, completed=result.step, note=text)
        if not err.is_terminal and time.monotonic() - self._printed > _SECONDS:
            self._printed = time.monotonic()
            minutes = result.seconds / 60
            echo(f"step {result.step:,} of {self._total:,}: {text}, {minutes:.1f} minutes")

    def evaluation(self, step: int, figures: Mapping[str, Any]) -> None:
        """Print the figures of an evaluation."""
        shown = [f"{name} {value:.4f}" for name, value in figures.items() if isinstance(value, float)]
        echo(f"step {step:,}: {', '.join(shown)}")
