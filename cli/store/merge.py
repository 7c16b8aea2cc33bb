"""The command `tokenstore merge`."""

from __future__ import annotations

import time
from typing import Any

import click

import tokenstore

from .. import options
from ..actors import ray_executor
from ..console import counted, echo, finished, human_bytes
from ..editing import samples_by_split
from ..main import EXIT_CODES
from ..parameters import Choice


@click.command(epilog=EXIT_CODES)
@click.argument("out")
@options.existing_store("parts", nargs=-1)
@options.option(
    "--split-names",
    metavar="PATTERN",
    default="{split}",
    help="Names of the splits of OUT, of whole stores; also with {store} and {number}.",
)
@click.option(
    "--common-columns", is_flag=True, help="Leave out columns that not all stores have, instead of refusing."
)
@click.option(
    "--on-error",
    type=Choice(["skip"]),
    help="Bad samples: skip any number. By default as many may be bad as in one conversion of the whole.",
)
@options.jobs("parts of shards that are encoded; the store is the same for any number")
@options.ray_cluster("a thread that encodes")
@options.resume("the interrupted merging to OUT")
@options.storage_options(of="store, or for OUT if the parts are local")
@options.storage_options("--target-storage-options", of="target, which is OUT")
def merge(out: str, parts: tuple[str, ...], **settings: Any) -> None:
    """Merge PARTS to the store OUT: whole stores of one tokenizer, or all parts of a conversion.

    Of whole stores, splits of one name are joined, and classes by their names; shards that stay the same are
    linked or copied. Parts are what `tokenstore convert --part I/N` made: all N have to be named, in any
    order, and OUT has the same bytes as one conversion of the whole.

    \b
    Examples:
      tokenstore merge photos.zarr parts/*
      tokenstore merge both.zarr photos.zarr drawings.zarr --split-names "{split}-{store}"
      tokenstore merge s3://bucket/photos.zarr s3://bucket/parts/{1..100} --jobs 8
      tokenstore merge s3://bucket/all.zarr s3://bucket/{photos,more}.zarr --ray auto --actors 8
    """
    from ..progress import step_bars

    started = time.monotonic()
    executor = ray_executor(settings, "jobs")
    with step_bars("samples") as on_progress:
        result = tokenstore.merge(out, parts, executor=executor, on_progress=on_progress, **settings)
    if result.already_complete:
        echo(f"{out}: already complete, of as many samples")
        return
    if result.choice is not None:
        echo(f"codec {result.choice}")
    samples = samples_by_split(result.manifest.splits)
    facts = f"{counted(len(parts), 'part')}, {samples}, {human_bytes(result.nbytes)}"
    finished(out, facts, started, ("tokenstore", "info", out), ("tokenstore", "verify", out))
