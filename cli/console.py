"""The terminal that the commands share: progress bars, sizes, options without use."""

from __future__ import annotations

import click
from click.core import ParameterSource
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from . import options

err = Console(stderr=True)
storage_options = options.storage_options()  # until all commands take it from options


class RateColumn(ProgressColumn):
    """A column of the work done a second, over the last half minute."""

    def __init__(self, unit: str) -> None:
        """Take the `unit` of the work, such as "samples"."""
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        """Return the rate of a task, or nothing as long as none is known."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} {self._unit}/s")


def progress_bar(unit: str, *, quiet: bool = False) -> Progress:
    """Return a bar on stderr with rate and time left; the bar is silent if stderr is no terminal.

    With "bytes" as the `unit`, sizes and rates are in units of bytes.
    """
    columns: list[ProgressColumn] = [MofNCompleteColumn(), RateColumn(unit)]
    if unit == "bytes":
        columns = [DownloadColumn(), TransferSpeedColumn()]
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *columns,
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=err,
        disable=quiet or not err.is_terminal,
        transient=True,
    )


def human_bytes(nbytes: float) -> str:
    """Return bytes in decimal units with three digits: 1.23 MB, where `rich.filesize` would give 1.2 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(nbytes) < 999.5:
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.3g} {unit}"
        nbytes /= 1000
    return f"{nbytes:.3g} TB"


def refuse_idle_options(options: dict[str, str], needed: str, idle: bool) -> None:
    """Raise click.UsageError for an option that only says how to do something that is not asked for."""
    context = click.get_current_context()
    for name, option in options.items():
        if idle and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{option} goes with {needed}")
