"""The command `tokenstore recode`."""

from __future__ import annotations

import time
from typing import Any

import click

import tokenstore
from tokenstore.texts import percent

from .. import options
from ..actors import ray_executor
from ..console import echo, finished, human_bytes
from ..main import EXIT_CODES


@click.command(epilog=EXIT_CODES)
@options.existing_store()
@click.argument("out", required=False)
@options.codec("auto")
@options.min_decode_rate()
@options.shard_samples()
@options.jobs("parts of shards that are encoded; the store is the same for any number")
@options.ray_cluster("a thread that encodes")
@options.resume("the interrupted recoding to OUT")
@options.storage_options()
def recode(store: str, out: str | None, **settings: Any) -> None:
    """Write STORE again with another codec: to OUT, or else in its place.

    The codes stay the same, and every shard is decoded again before it is written. In its place means that
    the new store is whole beside the old one before they change places, so both need room for a while.

    \b
    Examples:
      tokenstore recode photos.zarr --codec context
      tokenstore recode photos.zarr small.zarr --codec auto --min-decode-rate 5000
      tokenstore recode photos.zarr plain.zip --codec zstd
      tokenstore recode s3://bucket/a.zarr s3://bucket/b.zarr --ray auto --actors 8 --cpus-per-actor 4
    """
    started = time.monotonic()
    executor = ray_executor(settings, "jobs")
    from ..progress import step_bars

    with step_bars() as on_progress:
        result = tokenstore.recode(store, out, executor=executor, on_progress=on_progress, **settings)
    if result.choice is not None:
        echo(f"codec {result.choice}")
    before = result.nbytes_before
    share = f", {percent(result.nbytes / before)} of {human_bytes(before)}" if before else ""
    place = out or store
    finished(place, f"{human_bytes(result.nbytes)}{share}", started, ("tokenstore", "verify", place))
