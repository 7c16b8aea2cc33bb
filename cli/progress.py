"""Progress bars on the terminal; a command imports this module, and rich with it, only when it works."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Column
from rich.text import Text
from typing_extensions import override

from tokenstore.texts import printable

from .console import echo, human_bytes, human_rate
from .terminal import Terminal
from .waiting import settle

err = Terminal(stderr=True)
"""The terminal on standard error."""
LINE_SECONDS = 30.0
"""The seconds from one line to the next where stderr is no terminal."""


def _unwrapped() -> Column:
    """Return a column that a narrow terminal makes no second line of: the bar gets shorter instead."""
    return Column(no_wrap=True)


class RateColumn(ProgressColumn):
    """A column of the work done a second, over the last half minute."""

    def __init__(self, unit: str) -> None:
        """Take the `unit` of the work, such as "samples"."""
        super().__init__(_unwrapped())
        self._unit = unit

    def render(self, task: Task) -> Text:
        """Return the rate of a task, or nothing as long as none is known."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{human_rate(speed)} {self._unit}/s".replace(" /s", "/s"))


class _LineColumn(TextColumn):
    """A column of text as it is: the names of splits and files hold no markup."""

    @override
    def render(self, task: Task) -> Text:
        return Text(printable(self.text_format.format(task=task)))


class _LinesOrBar(Progress):
    """A progress bar on a terminal, and a line every `LINE_SECONDS` where there is none."""

    def __init__(self, *columns: ProgressColumn, unit: str, lines: bool, **settings: Any) -> None:
        """Take the `unit` of the work, and True to print `lines`."""
        super().__init__(*columns, **settings)
        self._unit, self._lines = unit, lines
        self._printed = time.monotonic()

    @override
    def start(self) -> None:
        """Show the bar."""
        settle()
        super().start()

    @override
    def update(self, task_id: TaskID, **changes: Any) -> None:
        """Update a task, and print a line if one is due."""
        super().update(task_id, **changes)
        if self._lines and time.monotonic() - self._printed >= LINE_SECONDS:
            self._printed = time.monotonic()
            echo(_line(next(task for task in self.tasks if task.id == task_id), self._unit), err=True)


@contextmanager
def step_bars(unit: str = "") -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar for each step of the work, which is counted in `unit`.

    The progress callback gets the step's name, what is done, and all.
    """
    tasks: dict[str, TaskID] = {}
    with ExitStack() as shown:
        bar = progress_bar(unit)

        def on_progress(step: str, done: int, total: int) -> None:
            if not tasks:  # until then the line of a silent command is shown
                shown.enter_context(bar)
            if step not in tasks:
                tasks[step] = bar.add_task(step, total=total, note="")
            bar.update(tasks[step], completed=done)

        yield on_progress


def _line(task: Task, unit: str) -> str:
    """Return how far a task is, as a line."""
    number = human_bytes if unit == "bytes" else "{:,.0f}".format
    total = "" if task.total is None else f" of {number(task.total)}"
    named = "" if unit == "bytes" else f" {unit}".rstrip()
    note = task.fields.get("note", "")
    return f"{task.description}: {number(task.completed)}{total}{named}{', ' if note else ''}{note}"


def progress_bar(unit: str, *, quiet: bool = False, lines: bool = True) -> Progress:
    """Return a bar on stderr with rate and time left, or `lines` every so often if stderr is no terminal.

    With "bytes" as the `unit`, sizes and rates are in units of bytes. A `quiet` bar prints nothing.
    """
    columns: list[ProgressColumn] = [MofNCompleteColumn(table_column=_unwrapped()), RateColumn(unit)]
    if unit == "bytes":
        columns = [
            DownloadColumn(table_column=_unwrapped()),
            TransferSpeedColumn(table_column=_unwrapped()),
        ]
    return _LinesOrBar(
        _LineColumn("{task.description}"),
        BarColumn(),
        *columns,
        TimeRemainingColumn(table_column=_unwrapped()),
        _LineColumn("{task.fields[note]}"),
        console=err,
        disable=quiet or not err.is_terminal,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # else what libraries print would go to stderr
        unit=unit,
        lines=lines and not quiet and not err.is_terminal,
    )
