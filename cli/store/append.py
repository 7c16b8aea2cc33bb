"""The command `tokenstore append`."""

from __future__ import annotations

from typing import Any

import click

import tokenstore
from tokenstore.sources.registry import kind_names

from .. import options, source_options
from ..editing import edited
from ..main import EXIT_CODES
from ..parameters import Choice


@click.command(epilog=EXIT_CODES)
@options.existing_store()
@options.existing_source("src")
@click.option("--source", type=Choice(kind_names()), help="Kind of SRC; by default by its content.")
@source_options.class_names()
@source_options.labels()
@source_options.label_column()
@source_options.image_column()
@source_options.further_columns()
@options.tokenizer(otherwise="the store's")
@options.device()
@click.option("--again", is_flag=True, help="Append SRC even if it was appended before.")
@options.jobs("parts of shards; the store is the same for any number")
@options.storage_options(of="store, or another source, that SRC is")
def append(store: str, src: str, source: str | None, device: str, **settings: Any) -> None:
    """Write the samples of SRC behind those of STORE, a local folder or zip file, in its place.

    SRC is a store of the same tokenizer, grid and columns, or anything that `tokenstore convert` takes, which
    is converted first, as STORE was. Splits and classes are joined by name. The new edition shares all full
    shards with the old one, and is whole before they change places; readers of the old one are told to open
    it again.

    \b
    Examples:
      tokenstore append photos.zarr more-photos/
      tokenstore append photos.zarr monday.zarr
    """
    of_conversion = {"source_kind": source, "device": None if device == "cpu" else device, **settings}
    given = {name: value for name, value in of_conversion.items() if value not in (None, False, ())}
    with edited("appended") as (on_progress, report):
        report(tokenstore.append(store, src, on_progress=on_progress, **given))
