"""The command `tokenstore split`."""

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
@click.option("--val", metavar="SHARE", type=float, help="The share of the samples for a new split val.")
@click.option("--test", metavar="SHARE", type=float, help="The share of the samples for a new split test.")
@options.option("--of", metavar="NAME", otherwise="the only one", help="The split to divide.")
@click.option("--stratified", is_flag=True, help="Take the share of each class alike.")
@options.seed(of="the draw of the samples")
@options.jobs("parts of shards; the store is the same for any number")
@options.resume("the interrupted call")
@options.storage_options(of="store, or for OUT if STORE is local")
@options.storage_options("--target-storage-options", of="target, which is OUT")
def split(store: str, out: str, val: float | None, test: float | None, **settings: Any) -> None:
    """Write a store OUT in which some samples of a split of STORE are splits of their own.

    All others stay in their split, and other splits stay as they are. The draw is a pure function of the
    seed, the shares and the number of samples (with --stratified, of the labels too).

    \b
    Examples:
      tokenstore split photos.zarr divided.zarr --val 0.05
      tokenstore split photos.zarr divided.zarr --val 0.05 --test 0.1 --stratified --of train --seed 1
    """
    shares = {name: share for name, share in (("val", val), ("test", test)) if share is not None}
    with edited("divided") as (on_progress, report):
        report(tokenstore.split(store, out, shares=shares, on_progress=on_progress, **settings))
