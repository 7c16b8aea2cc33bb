"""The program `seitpp`: networks that learn from tokens."""

from __future__ import annotations

import click

from tokenstore.version import __version__

from .main import EXIT_CODES, LazyCommands

_COMMANDS = {
    "finetune": (
        "networks.finetune",
        "Train a classifier, from pre-trained weights or from scratch.",
    ),
    "segment": ("networks.segment", "Train a network that gives each pixel a class."),
    "pretrain": (
        "networks.pretrain",
        "Train a masked-token model on a store, without labels.",
    ),
    "train-tokenadapt": (
        "networks.train_tokenadapt",
        "Train TokenAdapt, which augments tokens as images are, for a tokenizer.",
    ),
    "evaluate": (
        "networks.evaluate",
        "Measure a network on a token store or on images, as they are and corrupted.",
    ),
    "report": (
        "networks.report",
        "Make one HTML page that shows training runs.",
    ),
    "completion": ("completion", "Print the shell's completion of commands and options."),
}


class _Commands(LazyCommands):
    homes = _COMMANDS
    program = "seitpp"


@click.command(
    "seitpp", cls=_Commands, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, prog_name="seitpp")
@click.option(
    "--debug", is_flag=True, envvar="TOKENSTORE_DEBUG", help="Show the whole traceback of an error."
)
def cli(debug: bool) -> None:
    """Networks that learn from discrete tokens, after SeiT++.

    \b
      seitpp train-tokenadapt --images photos/ --out adapter.safetensors
      seitpp evaluate model.safetensors --store imagenet.zarr
    """


def main() -> None:
    """Run the console script `seitpp`."""
    cli.main(prog_name="seitpp")


if __name__ == "__main__":
    main()
