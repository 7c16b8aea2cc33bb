"""Texts that commands share: the lines, JSON and hints they print, sizes, and the refusal of idle options."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import click
from click.core import ParameterSource

from tokenstore.texts import counted, human_bytes, human_seconds, printable

from .waiting import settle

__all__ = [
    "counted",
    "echo",
    "echo_facts",
    "echo_json",
    "exit_with",
    "finished",
    "hint",
    "hint_commands",
    "human_bytes",
    "human_rate",
    "human_seconds",
    "refuse_idle_options",
    "wrapped",
]


_UNIT_SPACE = re.compile(r"(?<=\d) (?=[^\W\d]|%)")
"""The space between a number and its unit."""
_JOINT = "\ue000"
"""A character that `printable` leaves in no text."""
_CONTINUED = " \\"
"""The end of a line that a shell takes together with the next."""


def echo(line: str = "", *, err: bool = False, bold: bool = False) -> None:
    """Print one line; whatever in it is not printable, such as a control sequence in a name, is escaped."""
    _write(wrapped(printable(line), sys.stderr if err else sys.stdout), err, bold=bold or None)


def _write(text: str, err: bool = False, **style: Any) -> None:
    """Write text and a line break to a standard stream, above any bar on the terminal."""
    settle()
    stream = sys.stderr if err else sys.stdout
    # a bar sets a proxy there, behind which click would write to the terminal itself
    proxy = stream if hasattr(stream, "rich_proxied_file") else None
    click.secho(text, file=proxy, err=err, **style)


def wrapped(line: str, stream: TextIO, indent: int = 2) -> str:
    """Return a line as a terminal shows it without breaking words; anywhere else, a line stays one.

    A number stays on one line with its unit.
    """
    width = shutil.get_terminal_size().columns
    if len(line) <= width or not stream.isatty():
        return line
    before = " " * (len(line) - len(line.lstrip()))
    filled = textwrap.fill(
        _UNIT_SPACE.sub(_JOINT, line.strip()),
        width,
        initial_indent=before,
        subsequent_indent=before + " " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return filled.replace(_JOINT, " ")


def echo_json(values: object, indent: int | None = 2) -> None:
    """Print JSON values, for programs; on one line where `indent` is None."""
    _write(json.dumps(values, indent=indent))


def hint(*lines: str) -> None:
    """Say what to do next, on stderr if that is a terminal: it is for people, and no part of the output."""
    if not sys.stderr.isatty():
        return
    for number, line in enumerate(lines):
        _write(f"{'      ' if number else 'next: '}{printable(line)}", err=True, dim=True)


def human_rate(number: float) -> str:
    """Return a number of things a second: a whole number, and two digits below 10."""
    return f"{number:,.0f}" if number >= 9.95 else f"{number:.2g}"


def echo_facts(facts: Mapping[str, str]) -> None:
    """Print facts by their names, a line each, one below the other."""
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        _write(wrapped(printable(f"{name:<{width}}  {value}"), sys.stdout, width + 2))


def finished(place: object, facts: str, started: float, *following: Sequence[object]) -> None:
    """Print the last line of a command: what it wrote, facts about it, and the time since `started`.

    `following` are the words of the commands that may come next, each of which gets a hint.
    """
    echo(f"{place}: {facts}; {human_seconds(time.monotonic() - started)}")
    hint_commands(*following)


def hint_commands(*following: Sequence[object]) -> None:
    """Hint at commands that may come next, each given by its words and on a line of its own.

    A command that is longer than the terminal is broken as a shell reads it, by a backslash.
    """
    room = shutil.get_terminal_size().columns - len("next: ")
    hint(*(line for words in following for line in _command_lines([*map(str, words)], room)))


def _command_lines(words: Sequence[str], room: int) -> list[str]:
    """Return a command as lines of at most `room` characters, as far as its words allow that."""
    lines = [""]
    for word in map(shlex.quote, words):
        line = f"{lines[-1]} {word}" if lines[-1] else word
        if len(line) + len(_CONTINUED) <= room or not lines[-1].strip():
            lines[-1] = line
        else:
            lines[-1] += _CONTINUED
            lines.append(f"  {word}")
    return lines


def exit_with(problems: Sequence[str]) -> None:
    """Print what is wrong with a command's input on stderr, and exit with 1 if anything is."""
    for problem in problems:
        echo(f"problem: {problem}", err=True)
    if problems:
        raise click.exceptions.Exit(1)


def refuse_idle_options(options: dict[str, str], needed: str, idle: bool) -> None:
    """Raise click.UsageError for an option that only says how to do something that is not asked for."""
    context = click.get_current_context()
    for name, option in options.items():
        if idle and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{option} goes with {needed}")
