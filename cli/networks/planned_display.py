"""The plan of a run that is not made, printed as a YAML file with comments."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

from ..console import counted, echo
from ..main import spoken

_WIDTH = 100


def print_planned(planned: Any) -> None:
    """Print a plan (seitpp_models.training.PlannedRun) on standard output."""
    width = min(_WIDTH, shutil.get_terminal_size().columns) if sys.stdout.isatty() else _WIDTH
    for line in planned_lines(planned, width):
        echo(line)


def planned_lines(planned: Any, width: int = _WIDTH) -> Iterator[str]:
    """Return the lines of a YAML file of the settings; what a store makes of them is in comments.

    Comments have up to `width` characters a line.
    """
    import yaml

    yield from _comment(f"Every setting of `seitpp {planned.command}`, as a recipe (--config).", width)
    for name, value in planned.settings.items():
        plain = value if isinstance(value, (bool, int, float, str)) or value is None else str(value)
        yield yaml.safe_dump({name.replace("_", "-"): plain}, width=10**6).rstrip()
    if planned.plan is None:
        yield from _comment("A store says more: the sizes of the run, and the groups of parameters.", width)
        return
    plan = planned.plan
    yield from _comment(
        f"{plan.parameters:,} parameters, {counted(plan.samples, 'sample')}, "
        f"{counted(plan.steps, 'step')} of {plan.batch_size} on {plan.processes} x {plan.device}, "
        f"{plan.precision}",
        width,
    )
    for note in plan.notes:
        yield from _comment(spoken(note), width)
    yield "# Groups of parameters:"
    for group in planned.groups:
        yield from _comment(
            f"  {group.scale:.4g} of the learning rate, weight decay {group.weight_decay:g}: "
            f"{len(group.names)} tensors, {group.weights:,} weights: {', '.join(group.names)}",
            width,
        )
    yield "# Augmentation:"
    for line in planned.augmentation.splitlines():
        yield from _comment(f"  {line}", width)


def _comment(text: str, width: int) -> list[str]:
    indent = " " * (len(text) - len(text.lstrip()))
    return textwrap.wrap(
        text,
        width,
        initial_indent="# ",
        subsequent_indent=f"# {indent}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
