"""What the commands share: the terminal, progress bars, common options."""

from __future__ import annotations

import click
from click.core import ParameterSource
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.progress import TimeRemainingColumn as _TimeRemaining
from rich.text import Text

from . import options

err = Console(stderr=True)
storage_options = options.storage_options()  # until all commands take it from options


class RateColumn(ProgressColumn):
    """Work done a second, over the last half minute."""

    def __init__(self, unit: str, scale: float = 1) -> None:
        super().__init__()
        self._unit, self._scale = unit, scale

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed / self._scale:,.0f} {self._unit}/s")


def progress_bar(unit: str, *, quiet: bool = False) -> Progress:
    """A bar on stderr with rate and time left; nothing where that is no terminal."""
    byte_counts = unit == "MB"
    columns = [] if byte_counts else [MofNCompleteColumn()]
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *columns,
        RateColumn(unit, 1e6 if byte_counts else 1),
        _TimeRemaining(),
        TextColumn("{task.fields[note]}"),
        console=err,
        disable=quiet or not err.is_terminal,
        transient=True,
    )


def human_bytes(nbytes: float) -> str:
    """Bytes in decimal units, as storage is sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(nbytes) < 999.5:
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.3g} {unit}"
        nbytes /= 1000
    return f"{nbytes:.3g} TB"


def refuse_idle_options(options: dict[str, str], needed: str, idle: bool) -> None:
    """Refuse options that only say how to do what is not asked for."""
    context = click.get_current_context()
    for name, option in options.items():
        if idle and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{option} goes with {needed}")
