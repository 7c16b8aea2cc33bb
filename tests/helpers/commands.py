"""The commands of both programs."""

from __future__ import annotations

import click
from tokenstore_cli.main import cli as tokenstore
from tokenstore_cli.seitpp import cli as seitpp

PROGRAMS: dict[str, click.Group] = {"tokenstore": tokenstore, "seitpp": seitpp}  # type: ignore[dict-item]


def all_commands() -> dict[str, click.Command]:
    """Return the commands of both programs by their full names, such as "tokenstore info"."""
    commands = {}
    for program, group in PROGRAMS.items():
        for name in group.list_commands(click.Context(group)):
            command = group.get_command(click.Context(group), name)
            assert command is not None
            commands[f"{program} {name}"] = command
    return commands
