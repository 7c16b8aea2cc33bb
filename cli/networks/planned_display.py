"""The plan of a run that is not made, printed as a YAML file with comments."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

from ..console import counted, echo
from ..main import spoken

_WIDTH = 100


def print_planned(planned: Any) -> None:
    """Print a plan (seitpp_models.training.PlannedRun) on standard output."""
    for line in planned_lines(planned):
        echo(line)


def planned_lines(planned: Any) -> Iterator[str]:
    """Return the lines of a YAML file of the settings; what a store makes of them is in comments."""
    import yaml

    yield f"# Every setting of `seitpp {planned.command}`, as a recipe (--config)."
    for name, value in planned.settings.items():
        plain = value if isinstance(value, (bool, int, float, str)) or value is None else str(value)
        yield yaml.safe_dump({name.replace("_", "-"): plain}, width=10**6).rstrip()
    if planned.plan is None:
        yield "# A store says more: the sizes of the run, and the groups of parameters."
        return
    plan = planned.plan
    yield (
        f"# {plan.parameters:,} parameters, {counted(plan.samples, 'sample')}, "
        f"{counted(plan.steps, 'step')} of {plan.batch_size} on {plan.processes} x {plan.device}, "
        f"{plan.precision}"
    )
    for note in plan.notes:
        yield from _comment(spoken(note))
    yield "# Groups of parameters:"
    for group in planned.groups:
        yield from _comment(
            f"  {group.scale:.4g} of the learning rate, weight decay {group.weight_decay:g}: "
            f"{len(group.names)} tensors, {group.weights:,} weights: {', '.join(group.names)}"
        )
    yield "# Augmentation:"
    yield from (f"#   {line}" for line in planned.augmentation.splitlines())


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="#     ")
