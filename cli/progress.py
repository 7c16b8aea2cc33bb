"""Progress bars on the terminal; a command imports this module, and rich with it, only when it works."""

from __future__ import annotations

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
from typing_extensions import override

from tokenstore.texts import printable

from .terminal import Terminal

err = Terminal(stderr=True)
"""The terminal on standard error."""


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


class _LineColumn(TextColumn):
    """A column of text as it is: the names of splits and files hold no markup."""

    @override
    def render(self, task: Task) -> Text:
        return Text(printable(self.text_format.format(task=task)))


def progress_bar(unit: str, *, quiet: bool = False) -> Progress:
    """Return a bar on stderr with rate and time left; the bar is silent if stderr is no terminal.

    With "bytes" as the `unit`, sizes and rates are in units of bytes.
    """
    columns: list[ProgressColumn] = [MofNCompleteColumn(), RateColumn(unit)]
    if unit == "bytes":
        columns = [DownloadColumn(), TransferSpeedColumn()]
    return Progress(
        _LineColumn("{task.description}"),
        BarColumn(),
        *columns,
        TimeRemainingColumn(),
        _LineColumn("{task.fields[note]}"),
        console=err,
        disable=quiet or not err.is_terminal,
        transient=True,
    )
