"""Texts that commands share: the lines, JSON and hints they print, sizes, and the refusal of idle options."""

from __future__ import annotations

import json
import sys

import click
from click.core import ParameterSource

from tokenstore.texts import human_bytes, printable

from .waiting import settle

__all__ = ["counted", "echo", "echo_json", "hint", "human_bytes", "human_rate", "refuse_idle_options"]


def echo(line: str = "", *, err: bool = False, bold: bool = False) -> None:
    """Print one line; whatever in it is not printable, such as a control sequence in a name, is escaped."""
    settle()
    click.secho(printable(line), err=err, bold=bold or None)


def echo_json(values: object, indent: int | None = 2) -> None:
    """Print JSON values, for programs; on one line where `indent` is None."""
    settle()
    click.echo(json.dumps(values, indent=indent))


def hint(line: str) -> None:
    """Say what to do next, on stderr if that is a terminal: it is for people, and no part of the output."""
    if sys.stderr.isatty():
        settle()
        click.secho(f"next: {printable(line)}", err=True, dim=True)


def human_rate(number: float) -> str:
    """Return a number of things a second: a whole number, and two digits below 10."""
    return f"{number:,.0f}" if number >= 9.95 else f"{number:.2g}"


def counted(number: int, noun: str) -> str:
    """Return a number and its noun, in the plural where the number is not 1."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def refuse_idle_options(options: dict[str, str], needed: str, idle: bool) -> None:
    """Raise click.UsageError for an option that only says how to do something that is not asked for."""
    context = click.get_current_context()
    for name, option in options.items():
        if idle and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{option} goes with {needed}")
