"""The command `seitpp`: networks that learn from tokens."""

from __future__ import annotations

import click

from tokenstore import __version__

from .main import EXIT_CODES, LazyCommands

_COMMANDS = {
    "finetune": ("tokenstore_cli.finetune", "Train a classifier, from pre-trained weights or from scratch."),
    "segment": ("tokenstore_cli.segment", "Train a network that gives each pixel a class."),
    "pretrain": ("tokenstore_cli.pretrain", "Train a masked-token model on a store, without labels."),
    "train-tokenadapt": (
        "tokenstore_cli.train_tokenadapt",
        "Train TokenAdapt, which augments tokens as images are, for a tokenizer.",
    ),
    "evaluate": (
        "tokenstore_cli.evaluate",
        "Measure a network on a token store or on images, as they are and corrupted.",
    ),
}


class _Commands(LazyCommands):
    homes = _COMMANDS


@click.command(cls=_Commands, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
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
    """The console script."""
    cli.main(prog_name="seitpp")


if __name__ == "__main__":
    main()
