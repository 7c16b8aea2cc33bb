"""The command `seitpp segment`."""

from __future__ import annotations

from typing import Any

import click

from .. import options, training_options
from ..main import EXIT_CODES
from ..options import option
from ..parameters import Choice
from .network_options import defaults, network_options, vit_options

_DEFAULTS = defaults("segment")


@click.command(epilog=EXIT_CODES)
@network_options("segment")
@vit_options("segment")
@option(
    "--head",
    type=Choice(["linear", "upernet"]),
    default=_DEFAULTS["head"],
    help="Head of the network. linear: a class for each patch; upernet: UPerNet's decoder over features of "
    "four depths.",
)
@training_options.decoder_width(_DEFAULTS["decoder_width"])
@training_options.classes(least=2, otherwise="the recipe's; one of both is needed")
@options.ignore_index()
@training_options.augment(
    ["crops", "none"],
    "crops: random parts of the grid and colours; with --adapter half of the batch is flipped too",
    default=_DEFAULTS["augment"],
)
@training_options.colours()
@click.pass_context
def segment(context: click.Context, /, **_: Any) -> None:
    """Train a network that gives each pixel of STORE's label maps a class.

    The store is made by `tokenstore convert --masks`. The network sees the whole grid.

    \b
    Examples:
      seitpp segment streets.zarr --classes 11 --from runs/mtm/model.safetensors --out runs/streets
      seitpp segment streets.zarr --classes 11 --head linear --model small --out runs/linear
    """
    from seitpp_models.training import segment as train

    from .run_display import show_run

    show_run(train, context)
