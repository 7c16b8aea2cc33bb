"""The command `completion` of both programs."""

from __future__ import annotations

import click

from .main import EXIT_CODES
from .parameters import Choice


@click.command(epilog=EXIT_CODES)
@click.argument("shell", type=Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a script that completes this program's commands and options in SHELL.

    \b
    Examples:
      tokenstore completion bash >> ~/.bashrc
      seitpp completion zsh >> ~/.zshrc
      tokenstore completion fish > ~/.config/fish/completions/tokenstore.fish
    """
    from click.shell_completion import get_completion_class

    root = ctx.find_root()
    program = str(root.info_name)
    completer = get_completion_class(shell)
    assert completer is not None  # click has one for each choice
    click.echo(completer(root.command, {}, program, f"_{program.upper()}_COMPLETE").source())
