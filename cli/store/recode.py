"""The command `tokenstore recode`."""

from __future__ import annotations

import time
from typing import Any

import click
from rich.progress import TaskID

import tokenstore

from .. import options
from ..actors import ray_executor
from ..console import echo, hint, human_bytes
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
    tasks: dict[str, TaskID] = {}
    from ..progress import progress_bar

    with progress_bar("") as bar:

        def on_progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total, note="")
            bar.update(tasks[what], completed=done)

        result = tokenstore.recode(store, out, executor=executor, on_progress=on_progress, **settings)
    if result.choice is not None:
        echo(f"codec {result.choice}")
    before = result.nbytes_before
    share = f", {result.nbytes / before:.1%} of {human_bytes(before)}" if before else ""
    took = time.monotonic() - started
    echo(f"{out or store}: {human_bytes(result.nbytes)}{share}; {took:.1f} s")
    hint(f"tokenstore verify {out or store}")
