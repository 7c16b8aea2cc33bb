"""The command `tokenstore select`."""

from __future__ import annotations

from typing import Any

import click

import tokenstore

from .. import options
from ..editing import edited
from ..main import EXIT_CODES


@click.command(epilog=EXIT_CODES)
@options.existing_store()
@click.argument("out")
@click.option("--where", metavar="CONDITION", help="Samples that a condition on columns is true of.")
@options.indices("of one split, each once")
@options.share("of what the others leave, drawn at random")
@options.seed(of="the draw of --share")
@options.split("all", name="splits", multiple=True)
@options.jobs("parts of shards; the store is the same for any number")
@options.resume("the interrupted selection to OUT")
@options.storage_options(of="store, or for OUT if STORE is local")
@options.storage_options("--target-storage-options", of="target, which is OUT")
def select(store: str, out: str, splits: tuple[str, ...], **settings: Any) -> None:
    """Write a store OUT of those samples of STORE that all given options select, in their order.

    A condition has the syntax of Python: names of columns, numbers, texts, comparisons, in (...), and, or,
    not. Its names are label, row, source, source_index, label_name, width, height, source_bytes, and further
    columns of texts or of one number a sample. Shards that need no change are linked or copied as they are.

    \b
    Examples:
      tokenstore select photos.zarr cats.zarr --where "label_name in ('cat', 'lynx') and width > 200"
      tokenstore select photos.zarr tenth.zarr --share 0.1 --seed 1
      tokenstore select photos.zarr clean.zarr --split train --indices rows.npy
    """
    with edited("selected") as (on_progress, report):
        report(tokenstore.select(store, out, splits=splits or None, on_progress=on_progress, **settings))
