"""The command `tokenstore dedupe`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import tokenstore

from .. import options
from ..console import counted, echo, hint_commands
from ..editing import counted_by_split, edited
from ..main import EXIT_CODES
from ..report_options import near

if TYPE_CHECKING:
    from tokenstore.writing.editing.dedupe import Deduped


@click.command(epilog=EXIT_CODES)
@options.existing_store()
@click.argument("out", required=False)
@near()
@click.option(
    "--remove-near",
    is_flag=True,
    help="Remove samples with at least the share of --near of the codes of an earlier one that stays, too.",
)
@click.option("--across-splits", is_flag=True, help="Remove samples whose codes an earlier split has, too.")
@click.option(
    "--report",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A .csv or .parquet file to write, with a row for each pair of samples.",
)
@options.split("all, in the order of the store", name="splits", multiple=True)
@options.jobs("blocks of samples; the result is the same for any number")
@options.resume("the interrupted writing of OUT")
@options.storage_options(of="store, or for OUT if STORE is local")
@options.storage_options("--target-storage-options", of="target, which is OUT")
def dedupe(store: str, out: str | None, splits: tuple[str, ...], **settings: Any) -> None:
    """Find samples of STORE with the same codes, and write a store OUT without them, if it is named.

    In each split the first of equal samples stays. Samples that an earlier split has too, which leak from one
    into the other, are counted, and removed with --across-splits. Nearly equal ones are counted with
    --near, and removed with --remove-near.

    \b
    Examples:
      tokenstore dedupe photos.zarr --report duplicates.csv --near 0.9
      tokenstore dedupe photos.zarr clean.zarr
      tokenstore dedupe video.zarr clean.zarr --near 0.9 --remove-near
      tokenstore dedupe photos.zarr clean.zarr --across-splits --split val --split train
    """
    with edited("deduplicated") as (on_progress, report):
        found = tokenstore.dedupe(store, out, splits=splits or None, on_progress=on_progress, **settings)
        if found.store is not None:
            report(found.store)
        _print(found)
    if out is None and any(found.removed.values()):
        hint_commands(("tokenstore", "dedupe", store, "OUT"))


def _print(found: Deduped) -> None:
    """Print how many pairs there are between which splits."""
    kinds = (
        ("exact", found.duplicates.exact, "sample", "also in"),
        ("near", found.duplicates.near, "pair", "and"),
    )
    for kind, pairs, noun, joint in kinds:
        for (one, two), count in found.duplicates.counts(pairs).items():
            where = f"in {one}" if one == two else f"of {two} {joint} {one}"
            echo(f"{kind}: {counted(count, noun)} {where}")
    removed = counted_by_split(found.removed)
    echo(f"removed: {removed}" if found.store is not None else f"to remove: {removed}")
    if not found.duplicates.near.is_complete:
        echo(f"near: only the first {counted(len(found.duplicates.near), 'pair')} are listed")
