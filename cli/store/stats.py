"""The command `tokenstore stats`."""

from __future__ import annotations

from typing import Any

import click

import tokenstore
from tokenstore.audit.columns import BATCH_SIZE

from .. import options, source_options
from ..console import echo_json, hint_commands, refuse_idle_options
from ..main import EXIT_CODES
from ..report_options import quality as quality_option

_IMAGE_OPTIONS = {**source_options.ORIGINALS, "tokenizer": "--tokenizer", "device": "--device"}
_SHUFFLE_OPTIONS = {"batch_size": "--batch-size", "shuffle_window": "--shuffle-window"}


@click.command(epilog=EXIT_CODES)
@options.existing_store()
@options.as_json("the audit")
@quality_option()
@click.option("--shuffle", is_flag=True, help="Also say how well the orders of an epoch mix each split.")
@options.batch_size(BATCH_SIZE, "a batch of an epoch, for --shuffle", least=2)
@click.option(
    "--shuffle-window",
    metavar="SAMPLES",
    type=click.IntRange(1),
    help="Window of the shuffles 'block' and 'lanes', for --shuffle; by default TokenLoader's.",
)
@click.option(
    "--further-columns", "further", is_flag=True, help="Also say what the values of further columns are like."
)
@source_options.originals()
@options.tokenizer(otherwise="the one that STORE names")
@options.device()
@options.storage_options()
def stats(store: str, as_json: bool, quality: int | None, shuffle: bool, **settings: Any) -> None:
    """Audit STORE: where its bytes go and how its codes are used.

    Every code is read and counted. With --quality, N samples evenly spaced over each split are decoded and
    compared with their images as the tokenizer saw them: resized, not as they are in their files. With
    --shuffle, batches of an epoch are drawn, without reading their codes, to count the distinct classes and
    the distinct runs of samples in each: as stored, fully shuffled, and by the shuffles 'block' and 'lanes'.
    With --further-columns, every one of them is read, such as captions and boxes: its bytes, its empty and
    distinct values, and the range of its numbers and lengths.

    \b
    Examples:
      tokenstore stats photos.zarr
      tokenstore stats photos.zarr --json > audit.json
      tokenstore stats photos.zarr --quality 500 --device cuda
      tokenstore stats photos.zarr --further-columns
      tokenstore stats s3://bucket/photos.zarr --shuffle --shuffle-window 50000
    """
    refuse_idle_options(_IMAGE_OPTIONS, "--quality N", quality is None)
    refuse_idle_options(_SHUFFLE_OPTIONS, "--shuffle", not shuffle)
    from ..progress import progress_bar

    with progress_bar("samples", quiet=as_json) as bar:
        task = bar.add_task("counting", total=None, note="")
        result = tokenstore.stats(
            store,
            quality=quality,
            shuffle=shuffle,
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
            **settings,
        )
    if as_json:
        echo_json(result.to_dict())
        return
    from .stats_tables import print_stats  # imports numba

    print_stats(result)
    hint_commands(("tokenstore", "report", store, "-o", "report.html"))
