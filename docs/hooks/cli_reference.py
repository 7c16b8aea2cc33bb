"""The writer of the commands' pages, docs/reference/tokenstore.md and seitpp.md, from what `--help` shows.

    .venv/bin/python docs/hooks/cli_reference.py

`tests/docs/test_cli_reference.py` fails if a page is not what this writes.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import click
from tokenstore_cli.main import cli as tokenstore
from tokenstore_cli.seitpp import cli as seitpp

FOLDER = Path(__file__).resolve().parents[1] / "reference"
PROGRAMS = {"tokenstore": tokenstore, "seitpp": seitpp}
INTRODUCTION = """# `{name}`

{summary}

`{name} COMMAND --help` shows what stands here. An error is one line; `{name} --debug COMMAND ...`, or the
variable `TOKENSTORE_DEBUG=1`, shows the whole traceback. Exit codes: `0` done; `1` failed, or `verify` found
damage; `2` wrong command line; `130` interrupted by Ctrl-C or SIGTERM.
"""


def page(name: str) -> str:
    """Return the page of a program as Markdown."""
    group = PROGRAMS[name]
    # subtle: a command keeps the option --help of its first context, with the names that it has there
    parent = click.Context(group, info_name=name, **group.context_settings)
    parts = [INTRODUCTION.format(name=name, summary=_prose(group).split("\n\n")[0])]
    assert isinstance(group, click.Group)
    for command in group.homes:  # type: ignore[attr-defined]
        found = group.get_command(parent, command)
        assert found is not None
        parts.append(_section(found, click.Context(found, info_name=command, parent=parent)))
    return "\n".join(parts)


def _section(command: click.Command, context: click.Context) -> str:
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    options = [each for each in command.get_params(context) if isinstance(each, click.Option)]
    table = "".join(_row(each, context) for each in options if not each.hidden)
    return (
        f"## {context.command_path}\n\n```text\n{usage}\n```\n\n{_prose(command)}\n\n"
        f"| option | meaning |\n|---|---|\n{table}"
    )


def _prose(command: click.Command) -> str:
    """Return a help text, its blocks of examples and tables as code."""
    blocks = inspect.cleandoc(command.help or "").split("\n\n")
    return "\n\n".join(_block(block) for block in blocks)


def _block(block: str) -> str:
    if not block.startswith("\b\n"):
        return _escaped(" ".join(block.split()))
    heading, *lines = block.removeprefix("\b\n").split("\n")
    if heading.startswith(" "):
        heading, lines = "", [heading, *lines]
    code = inspect.cleandoc("\n" + "\n".join(lines))
    return f"{heading}\n\n```text\n{code}\n```".lstrip()


def _row(option: click.Option, context: click.Context) -> str:
    """Return the row of an option: its names with what they take, and its help, with the choices."""
    record = option.get_help_record(context)
    assert record is not None
    names, text = record
    text = _escaped(" ".join(text.split()))
    if isinstance(option.type, click.Choice):
        names = names.split(" [")[0]
        text = f"{text} One of {', '.join(f'`{choice}`' for choice in option.type.choices)}."
    return f"| `{names}` | {text.replace('|', '&#124;')} |\n"


def _escaped(text: str) -> str:
    """Return a text in which what `--help` shows is not taken for Markdown or HTML."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(
        part if part.startswith("`") else re.sub(r"([\\*_<>\[\]])", r"\\\1", part) for part in parts
    )


if __name__ == "__main__":
    for program in PROGRAMS:
        (FOLDER / f"{program}.md").write_text(page(program))
