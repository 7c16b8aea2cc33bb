"""The command `tokenstore preview`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

import tokenstore
from tokenstore.audit.pictures import FORMATS

from .. import options, source_options, training_options
from ..console import counted, echo, refuse_idle_options
from ..main import EXIT_CODES


def _image_path(_: click.Context, __: click.Parameter, path: Path) -> Path:
    if path.suffix.lower() not in FORMATS:
        raise click.BadParameter(f"expected a name ending in {', '.join(FORMATS)}; found {str(path)!r}")
    if not path.absolute().parent.is_dir():
        raise click.BadParameter(f"the folder of {path} does not exist; make it first")
    return path


@click.command(epilog=EXIT_CODES)
@options.existing_store()
@options.out(
    "the sheet, a PNG, JPEG or WebP by its ending; an image of that name is replaced", callback=_image_path
)
@options.split("the first that has samples")
@options.indices("those to draw; -1 is the last")
@click.option(
    "-n",
    "count",
    metavar="N",
    type=click.IntRange(1),
    help="Number of samples, evenly spaced. [default: 16, with --augment 4]",
)
@click.option(
    "--columns",
    metavar="N",
    type=click.IntRange(1),
    help="Samples side by side. [default: as they fit best]",
)
@training_options.augment(
    ["seitpp"],
    "SeiT++'s, of which each sample shows a flip and a crop, naive and by TokenAdapt, and ColorAdapt",
)
@training_options.adapter("default")
@source_options.originals()
@options.tokenizer(otherwise="the one that STORE names")
@options.device()
@options.storage_options()
def preview(
    store: str,
    out: Path,
    indices: list[int] | None,
    count: int | None,
    augment: Literal["seitpp"] | None,
    **settings: Any,
) -> None:
    """Draw samples of STORE on one sheet: each image where it is still there, and what its codes give.

    A store with label maps has each sample's beside them, a colour a class; ignored pixels are white. With
    --augment, the first image of a sample is its codes as they are stored, decoded like the others. Of a
    store with views, view 0 is shown.

    \b
    Examples:
      tokenstore preview photos.zarr -o sheet.png
      tokenstore preview photos.zarr -o sheet.jpg --split val --indices 0,5,17 --images /new/place/photos
      tokenstore preview photos.zarr -o augmented.png --augment seitpp
    """
    if indices is not None and count is not None:
        raise click.UsageError("expected --indices or -n, found both")
    refuse_idle_options({"adapter": "--adapter"}, "--augment", augment is None)
    refuse_idle_options(source_options.ORIGINALS, "a sheet without --augment", augment is not None)
    sheet = tokenstore.preview(store, out, indices=indices, count=count, augment=augment, **settings)
    which = f"{counted(len(sheet.indices), 'sample')} of split {sheet.split}"
    if sheet.headings:
        echo(f"{out}: {which}: {', '.join(sheet.headings)} (all decoded by the tokenizer)")
        return
    maps = ", all with their label maps" if sheet.label_maps else ""
    echo(f"{out}: {which}, {sheet.originals:,} with their originals{maps}")
    if sheet.reason is not None:
        echo(f"  no original of {sheet.missing:,}; the first reason: {sheet.reason}")
