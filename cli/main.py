"""The command `tokenstore`: parse, call the library, print."""

from __future__ import annotations

import importlib
import signal
from collections.abc import Mapping
from typing import Any

import click

from tokenstore.errors import TokenstoreError
from tokenstore.version import __version__

EXIT_CODES = """\b
Exit codes:
  0    done
  1    failed; for verify: the store is not as it was written
  2    the command line is wrong
  130  interrupted by Ctrl-C or SIGTERM
"""

_COMMANDS = {
    "convert": ("store.convert", "Turn images, or ready codes, into a token store."),
    "info": ("store.inspection", "Show what a store says about itself."),
    "recode": ("store.recode", "Write a store again with another codec."),
    "copy": ("store.copy", "Copy a store to another place, every file verified."),
    "stats": (
        "store.inspection",
        "Audit a store: where its bytes go and how its codes are used.",
    ),
    "verify": ("store.inspection", "Check every digest, checksum, code and label of a store."),
    "preview": (
        "store.preview",
        "Show samples on a sheet: originals and what their codes decode to.",
    ),
    "reconstruct": ("store.preview", "Write samples as images again."),
    "tokenizers": ("tokenizers.list_kinds", "List what --tokenizer takes."),
    "train-tokenizer": (
        "tokenizers.train_tokenizer",
        "Train a tokenizer of the default kind on images.",
    ),
    "fit-codebook": (
        "tokenizers.fit_codebook",
        "Learn a codebook over an autoencoder's latents.",
    ),
}
"""The module of each command in this package, imported when it is called, since torch takes seconds."""


class LazyCommands(click.Group):
    """Imports commands on use, and turns errors into one line."""

    homes: Mapping[str, tuple[str, str]] = {}
    """Of each command its module and what it does."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.homes)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.homes:
            return None
        command: click.Command = getattr(
            importlib.import_module(f".{self.homes[cmd_name][0]}", __package__), cmd_name.replace("-", "_")
        )
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in self.homes.items()])

    def invoke(self, ctx: click.Context) -> Any:
        signal.signal(signal.SIGTERM, _interrupt)
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            raise click.exceptions.Exit(130) from None
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as error:
            if ctx.params["debug"]:
                raise
            text = " ".join(spoken(error).split())
            if not isinstance(error, (TokenstoreError, OSError)):
                text = f"unexpected {type(error).__name__}: {text}. `{ctx.info_name} --debug ...` shows where"
            raise click.ClickException(text) from error


def spoken(error: Exception) -> str:
    """Return an error's message, with options where it names parameters of a Python call."""
    text = str(error)
    for parameter in getattr(error, "parameters", ()):
        option = f"--{parameter.name.replace('_', '-')}"
        if parameter.value not in (None, True):
            option += f" {parameter.value}"
        text = text.replace(str(parameter), option)
    return text


class _Commands(LazyCommands):
    homes = _COMMANDS


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@click.command(cls=_Commands, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tokenstore")
@click.option(
    "--debug", is_flag=True, envvar="TOKENSTORE_DEBUG", help="Show the whole traceback of an error."
)
def cli(debug: bool) -> None:
    """Vision datasets kept as discrete tokens: small, checked, fast to read.

    \b
      tokenstore convert photos/ photos.zarr
      tokenstore stats photos.zarr
      tokenstore verify photos.zarr
    """


def main() -> None:
    """The console script."""
    cli.main(prog_name="tokenstore")


if __name__ == "__main__":
    main()
