"""Texts that commands share: printed lines, sizes, and the refusal of options without use."""

from __future__ import annotations

import click
from click.core import ParameterSource

from tokenstore.texts import printable


def echo(line: str = "", *, err: bool = False, bold: bool = False) -> None:
    """Print one line; whatever in it is not printable, such as a control sequence in a name, is escaped."""
    click.secho(printable(line), err=err, bold=bold or None)


def human_bytes(nbytes: float) -> str:
    """Return bytes in decimal units with three digits: 1.23 MB, where `rich.filesize` would give 1.2 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(nbytes) < 999.5:
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.3g} {unit}"
        nbytes /= 1000
    return f"{nbytes:.3g} TB"


def counted(number: int, noun: str) -> str:
    """Return a number and its noun, in the plural where the number is not 1."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def refuse_idle_options(options: dict[str, str], needed: str, idle: bool) -> None:
    """Raise click.UsageError for an option that only says how to do something that is not asked for."""
    context = click.get_current_context()
    for name, option in options.items():
        if idle and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{option} goes with {needed}")
