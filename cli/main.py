"""The program `tokenstore`, and the group of commands that both programs are."""

from __future__ import annotations

import importlib
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import click

from tokenstore.errors import ArgumentError, TokenstoreError, did_you_mean
from tokenstore.texts import printable
from tokenstore.version import __version__

from .console import echo, wrapped
from .help_pages import HelpContext
from .waiting import waiting

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from tokenstore.errors import Parameter

EXIT_CODES = """\b
Exit codes:
  0    done
  1    failed; for verify: the store is not as it was written
  2    the command line is wrong
  130  interrupted by Ctrl-C or SIGTERM
"""

_COMMANDS = {
    "convert": ("store.convert", "Turn images, or ready codes, into a token store."),
    "info": ("store.info", "Show what a store says about itself."),
    "recode": ("store.recode", "Write a store again with another codec."),
    "merge": ("store.merge", "Merge stores, or the parts of a conversion, to one store."),
    "append": ("store.append", "Write samples behind those of a store, in its place."),
    "select": ("store.select", "Write a store of some samples of a store."),
    "split": ("store.split", "Write a store with some samples of a split as splits of their own."),
    "relabel": ("store.relabel", "Give the samples of a store other labels."),
    "rename-class": ("store.rename_class", "Give a class of a store another name."),
    "relate": ("store.relate", "Say which tokenizer made the codes of a store."),
    "dedupe": ("store.dedupe", "Find samples with the same codes, and write a store without them."),
    "copy": ("store.copy", "Copy a store to another place, every file verified."),
    "export": ("store.export", "Write a store's samples as files of another layout."),
    "stats": (
        "store.stats",
        "Audit a store: where its bytes go and how its codes are used.",
    ),
    "report": ("store.report", "Make one HTML page that shows a store, or two side by side."),
    "verify": ("store.verify", "Check every digest, checksum, code and label of a store."),
    "preview": (
        "store.preview",
        "Show samples on a sheet: originals and what their codes decode to.",
    ),
    "reconstruct": ("store.reconstruct", "Write samples as images again."),
    "tokenizers": ("tokenizers.list_kinds", "List what --tokenizer takes."),
    "train-tokenizer": (
        "tokenizers.train_tokenizer",
        "Train a tokenizer of the default kind on images.",
    ),
    "fit-codebook": (
        "tokenizers.fit_codebook",
        "Learn a codebook over an autoencoder's latents.",
    ),
    "completion": ("completion", "Print the shell's completion of commands and options."),
}
"""The module of each command in this package, and a sentence about it."""

OPTION_NAMES = {
    "address": "--ray",
    "as_json": "--json",
    "class_map": "--map",
    "columns": "--column",
    "corruptions": "--corruption",
    "count": "-n",
    "severities": "--severity",
    "shares": "--val and --test",
    "source_kind": "--source",
    "splits": "--split",
    "start": "--from",
}
"""The options of parameters that are called otherwise in Python."""
_ERROR = "Error: "
"""The word before the message of an error, which click writes."""


class LazyCommands(click.Group):
    """A group that imports a command on use, suggests names for typos, and prints errors as one line.

    Packages add commands by entry points of the group `PROGRAM.commands`, such as `tokenstore.commands`.
    """

    context_class = HelpContext
    homes: Mapping[str, tuple[str, str]] = {}
    """The module of each command, and a sentence about it."""
    program = ""
    """The name of the console script."""

    @cached_property
    def added(self) -> Mapping[str, EntryPoint]:
        """The commands of other packages, by their names."""
        from tokenstore.plugins import plugins  # which takes time

        return plugins(f"{self.program}.commands")

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return [*self.homes, *(name for name in self.added if name not in self.homes)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command and return it; None if none has this name."""
        command: click.Command | None = None
        if cmd_name in self.homes:
            module = importlib.import_module(f".{self.homes[cmd_name][0]}", __package__)
            command = getattr(module, cmd_name.replace("-", "_"))
        elif cmd_name in self.added:
            command = self.added[cmd_name].load()
        if command is not None and command.context_class is click.Context:
            command.context_class = HelpContext
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that `args` begin with; raise click.UsageError with similar names for a typo."""
        if args[0] in self.homes:
            return super().resolve_command(ctx, args)
        names = self.list_commands(ctx)
        if args[0] not in names and not args[0].startswith("-") and not ctx.resilient_parsing:
            hint = did_you_mean(args[0], names) or "."
            raise click.UsageError(f"No such command {args[0]!r}{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands, without importing those of this package."""
        rows = [(name, summary) for name, (_, summary) in self.homes.items()]
        for name in self.list_commands(ctx)[len(rows) :]:
            command = self.get_command(ctx, name)
            rows.append((name, "" if command is None else command.get_short_help_str(100)))
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; raise click.ClickException for any error, and exit with 130 at an interrupt."""
        before = signal.signal(signal.SIGTERM, _interrupt)
        try:
            with waiting(f"{self.program}: working"):
                return super().invoke(ctx)
        except KeyboardInterrupt:
            echo("interrupted", err=True)
            raise click.exceptions.Exit(130) from None
        except click.ClickException as error:
            if (fitted := _fitted(error)) is error:
                raise
            raise fitted from error
        except (click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as error:
            if ctx.params["debug"]:
                raise
            if _is_interrupt(error):
                echo("interrupted", err=True)
                raise click.exceptions.Exit(130) from None
            text = printable(" ".join(spoken(error).split()))
            if isinstance(error, ArgumentError):
                raise _fitted(click.UsageError(text)) from error
            if not isinstance(error, (TokenstoreError, OSError)):
                text = f"unexpected {type(error).__name__}: {text}. `{ctx.info_name} --debug ...` shows where"
            raise _fitted(click.ClickException(text)) from error
        finally:
            signal.signal(signal.SIGTERM, before)


def _fitted(error: click.ClickException) -> click.ClickException:
    """Return the error, or one that says the same in lines that fit the terminal."""
    message = error.format_message()
    lines = f"{_ERROR}{message}".split("\n")
    fitted = "\n".join(wrapped(line, sys.stderr) for line in lines).removeprefix(_ERROR)
    if fitted == message:
        return error
    if isinstance(error, click.UsageError):
        return click.UsageError(fitted, error.ctx)
    return click.ClickException(fitted)


def spoken(message: object, parameters: Sequence[Parameter] = ()) -> str:
    """Return the text of an error or note, with options where it names `parameters` of a Python call.

    By default these are the message's own.
    """
    text = str(message)
    for parameter in parameters or getattr(message, "parameters", ()):
        option = OPTION_NAMES.get(parameter.name, f"--{parameter.name.replace('_', '-')}")
        if parameter.value not in (None, True):
            option += f" {parameter.value}"
        if _is_of_convert_alone(option.split()[0]):
            option += " of `tokenstore convert`"
        # a longer name may end in this one: emb_noise ends in noise
        parts = re.split(rf"(?<!\w){re.escape(str(parameter))}", text)
        text = option.join(parts)
    return text


def _is_of_convert_alone(option: str) -> bool:
    """Return whether the command that runs has no such option, and `tokenstore convert` has it."""
    context = click.get_current_context(silent=True)
    command = None if context is None else context.command
    if context is not None and isinstance(command, click.Group):
        # an error leaves the command's own context before it is written
        command = command.get_command(context, context.invoked_subcommand or "")
    if command is None or option in _options_of(command):
        return False
    convert = cli.get_command(click.Context(cli), "convert")
    return convert is not None and option in _options_of(convert)


def _options_of(command: click.Command) -> set[str]:
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}


class _Commands(LazyCommands):
    homes = _COMMANDS
    program = "tokenstore"


def _is_interrupt(error: BaseException | None) -> bool:
    """Return True for an error that Ctrl-C became: in an extension module, it makes an import fail."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@click.command(
    "tokenstore", cls=_Commands, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]}
)
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
    """Run the console script `tokenstore`."""
    cli.main(prog_name="tokenstore")


if __name__ == "__main__":
    main()
