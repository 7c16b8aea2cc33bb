"""The command `tokenstore relabel`."""

from __future__ import annotations

from typing import Any

import click

import tokenstore

from .. import options
from ..editing import edited
from ..main import EXIT_CODES


@click.command(epilog=EXIT_CODES)
@options.existing_store()
@click.argument("out", required=False)
@click.option(
    "--map",
    "class_map",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False),
    help="A CSV file of old and new names of classes; several classes may become one.",
)
@click.option(
    "--labels",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False),
    help="Labels: a CSV file with the columns source and label, or a .npy file of integers.",
)
@options.resume("the interrupted call with OUT")
@options.storage_options(of="store, or for OUT if STORE is local")
@options.storage_options("--target-storage-options", of="target, which is OUT")
def relabel(store: str, out: str | None, **settings: Any) -> None:
    """Give the samples of STORE other labels: in a new store OUT, or else in its place.

    Tokens and all other columns stay as they are; their files are linked where that is possible. In its place
    means that the new store is whole beside the old one before they change places.

    \b
    Examples:
      tokenstore relabel photos.zarr coarse.zarr --map coarse.csv
      tokenstore relabel photos.zarr --labels corrected.csv
    """
    with edited("relabelled", "files") as (on_progress, report):
        report(tokenstore.relabel(store, out, on_progress=on_progress, **settings))
