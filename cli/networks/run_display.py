"""A training run on the terminal: its plan, a progress bar, evaluations and the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click

from ..console import counted, echo, hint_commands
from ..main import spoken
from ..training import RunDisplay
from .network_options import explicit_options
from .planned_display import print_planned


def show_run(train: Callable[..., Any], context: click.Context) -> None:
    """Call `train` with the options of a command, and print its progress; of several processes, one prints.

    With --dry-run the plan of the run is printed instead. Raises click.MissingParameter without a store or a
    folder to write to.
    """
    settings = explicit_options(context)
    if settings.pop("dry_run", False):
        from seitpp_models.training import planned

        settings.pop("out", None)
        print_planned(planned(train.__name__, **settings))  # type: ignore[arg-type]
        return
    for parameter in context.command.params:
        if parameter.name in ("store", "out") and settings.get(parameter.name) is None:
            raise click.MissingParameter(ctx=context, param=parameter)
    display = RunDisplay()

    def begin(plan: Any) -> None:
        _print_plan(plan)
        display.begin(plan.steps)

    def on_step(result: Any) -> None:
        text = f"epoch {result.epoch:.2f}, loss {result.loss:.4f}, {100 * result.right:.1f} % right"
        display.on_step(result.step, result.seconds, text)

    with display:
        trained = train(**settings, on_begin=begin, on_step=on_step, on_evaluation=_print_evaluation)
    display.end(trained)
    run = settings["out"]
    hint_commands(("seitpp", "evaluate", run, "--store", settings["store"]), ("seitpp", "report", run))


def _print_plan(plan: Any) -> None:
    """Print a run's plan (seitpp_models.training.TrainingPlan)."""
    echo(
        f"{plan.parameters / 1e6:.1f} M parameters, {counted(plan.samples, 'sample')}, "
        f"{counted(plan.steps, 'step')} of {plan.batch_size} on {plan.processes} x {plan.device}, "
        f"{plan.precision}"
    )
    for note in plan.notes:
        echo(f"note: {spoken(note)}")
    if plan.reference is not None:
        echo(f"{plan.reference[0]}: {plan.reference[1]:.4f} nats")


def _print_evaluation(step: int, figures: Mapping[str, Any]) -> None:
    """Print the figures of an evaluation."""
    shown = [f"{name} {value:.4f}" for name, value in figures.items() if isinstance(value, float)]
    echo(f"step {step:,}: {', '.join(shown)}")
