"""Bars of the work of a call, in a terminal or a notebook."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from tokenstore.texts import printable

__all__ = ["progress_bar"]


@contextmanager
def progress_bar(unit: str = "samples") -> Iterator[Callable[..., None]]:
    """Show bars with the rate and the time left, in a terminal or a notebook; elsewhere show nothing.

    Gives the progress callback of any call that takes `on_progress`, with a bar for each step or split:

        with tokenstore.progress_bar() as bar:
            tokenstore.convert("photos/", "photos.zarr", on_progress=bar)

    `unit` is the name of what is counted. In a notebook, bars need the package ipywidgets.
    """
    from rich.console import Console  # slow to import
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(highlight=False, markup=False, emoji=False)
    columns = [
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeRemainingColumn(),
    ]
    shown = find_spec("ipywidgets") is not None if console.is_jupyter else console.is_terminal
    tasks: dict[str, Any] = {}
    with Progress(*columns, console=console, disable=not shown) as bars:

        def on_progress(*state: Any) -> None:
            step, done, total = _state(state)
            if step not in tasks:
                tasks[step] = bars.add_task(printable(step), total=total, rate="")
            speed = bars.tasks[bars.task_ids.index(tasks[step])].speed
            rate = "" if speed is None else f"{speed:,.0f} {unit}/s"
            bars.update(tasks[step], completed=done, total=total, rate=rate)

        yield on_progress


def _state(state: tuple[Any, ...]) -> tuple[str, int, int]:
    """Return the step, what is done and the whole of the arguments that a call gives its callback."""
    if len(state) == 3:
        return str(state[0]), int(state[1]), int(state[2])
    if len(state) == 2:
        return "", int(state[0]), int(state[1])
    (progress,) = state
    return str(progress.split), int(progress.done), int(progress.total)
