"""Texts that commands share: printed lines, sizes, and the refusal of options without use."""

from __future__ import annotations

import click
from click.core import ParameterSource

from tokenstore.texts import human_bytes, printable

__all__ = ["counted", "echo", "human_bytes", "refuse_idle_options"]


def echo(line: str = "", *, err: bool = False, bold: bool = False) -> None:
    """Print one line; whatever in it is not printable, such as a control sequence in a name, is escaped."""
    click.secho(printable(line), err=err, bold=bold or None)


def counted(number: int, noun: str) -> str:
    """Return a number and its noun, in the plural where the number is not 1."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def refuse_idle_options(options: dict[str, str], needed: str, idle: bool) -> None:
    """Raise click.UsageError for an option that only says how to do something that is not asked for."""
    context = click.get_current_context()
    for name, option in options.items():
        if idle and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{option} goes with {needed}")
