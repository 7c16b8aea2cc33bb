"""The command `tokenstore export`."""

from __future__ import annotations

import time
from typing import Any

import click

import tokenstore
from tokenstore.writing.export.layouts import LAYOUTS

from .. import options
from ..console import counted, echo, finished, human_bytes
from ..main import EXIT_CODES
from ..parameters import Choice

_LISTED = "\n".join(f"  {name:<12} {files}" for name, (_, _, files) in LAYOUTS.items())


@click.command(epilog=f"\b\nLayouts:\n{_LISTED}\n\n{EXIT_CODES}")
@options.existing_store()
@click.argument("out")
@click.option("--to", type=Choice(tuple(LAYOUTS)), required=True, help="The layout of the files.")
@options.split("all", name="splits", multiple=True)
@click.option(
    "--column",
    "columns",
    metavar="NAME",
    multiple=True,
    help="A further column to store, of those that STORE has beside the tokens; labels is one. By default "
    "all are. May be given again.",
)
@click.option(
    "--rows-per-file",
    metavar="N",
    type=click.IntRange(1),
    help="Samples of a file, for jsonl, safetensors, parquet, hf and webdataset. [default: by the layout]",
)
@click.option(
    "--compression",
    type=Choice(["none", "deflate", "gzip", "snappy", "zstd"]),
    help="Compression: none or deflate for npz, none or gzip for jsonl and webdataset, any but deflate for "
    "parquet. [default: zstd for parquet, else none]",
)
@click.option(
    "--pictures", is_flag=True, help="Add pictures decoded from the codes, to parquet, hf and webdataset."
)
@options.option(
    "--picture-format", type=Choice(["jpeg", "png"]), default="jpeg", help="Format of the pictures."
)
@click.option(
    "--picture-size",
    metavar="PIXELS",
    type=click.IntRange(1),
    help="Longer side of a picture. [default: as it is decoded]",
)
@options.tokenizer(otherwise="the store's")
@options.device()
@options.resume("the interrupted export to OUT")
@options.storage_options(of="store, or for OUT if STORE is local")
@options.storage_options("--target-storage-options", of="target, which is OUT")
def export(store: str, out: str, **settings: Any) -> None:
    """Write the samples of STORE to the new folder OUT, as files that other programs read.

    Every file is read back and compared before it counts. OUT/tokenstore-export.json lists them; it is
    written last. What a layout cannot hold is an error until it is left out by --column.

    \b
    Examples:
      tokenstore export photos.zarr photos-hub --to parquet --pictures
      tokenstore export photos.zarr shards --to webdataset --rows-per-file 5000
      tokenstore export photos.zarr arrays --to npz --column labels --split train
    """
    from ..progress import step_bars

    started = time.monotonic()
    chosen: dict[str, Any] = {name: settings.pop(name) or None for name in ("splits", "columns")}
    with step_bars("samples") as on_progress:
        result = tokenstore.export(store, out, on_progress=on_progress, **chosen, **settings)
    for note in result.notes:
        echo(note)
    if result.already_complete:
        echo(f"{out}: already complete")
        return
    samples, files = counted(sum(result.samples.values()), "sample"), counted(result.files, "file")
    facts = f"{samples} in {files} as {result.layout}, {human_bytes(result.nbytes)}"
    finished(out, facts, started, ("tokenstore", "convert", out, "OUT"))
