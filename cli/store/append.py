"""The command `tokenstore append`."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

import tokenstore

from .. import options, source_options
from ..editing import edited
from ..main import EXIT_CODES


@click.command(epilog=EXIT_CODES)
@options.existing_store()
@options.existing_source("src")
@source_options.source_kind()
@source_options.class_names()
@source_options.labels()
@source_options.label_column()
@source_options.image_column()
@source_options.no_labels()
@source_options.further_columns()
@source_options.allow_outside_paths()
@source_options.masks()
@source_options.ready_codes()
@source_options.views()
@options.split("all of SRC", name="splits", multiple=True)
@source_options.on_error()
@source_options.max_pixels()
@options.tokenizer(otherwise="the store's")
@options.device()
@options.workers("processes that decode images; 0: none")
@options.batch_size(32, "images that the tokenizer takes at once")
@source_options.compiled()
@click.option("--again", is_flag=True, help="Append SRC even if it was appended before.")
@options.jobs("parts of shards; the store is the same for any number")
@options.storage_options(of="store, or another source, that SRC is")
def append(store: str, src: str, **settings: Any) -> None:
    """Write the samples of SRC behind those of STORE, a local folder or zip file, in its place.

    SRC is a store of the same tokenizer, grid and columns, or anything that `tokenstore convert` takes, which
    is converted first, as STORE was: by its tokenizer, to its size of images and of label maps. Splits and
    classes are joined by name. The new edition shares all full shards with the old one, and is whole before
    they change places; readers of the old one are told to open it again.

    \b
    Examples:
      tokenstore append photos.zarr more-photos/
      tokenstore append photos.zarr monday.zarr
      tokenstore append ade20k.zarr more/images --masks more/annotations
    """
    source_of = click.get_current_context().get_parameter_source
    given = {
        name: value for name, value in settings.items() if source_of(name) is ParameterSource.COMMANDLINE
    }
    with edited("appended") as (on_progress, report):
        report(tokenstore.append(store, src, on_progress=on_progress, **given))
