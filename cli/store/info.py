"""The command `tokenstore info`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

import tokenstore

from .. import options
from ..console import counted, echo, echo_facts, echo_json, human_bytes
from ..main import EXIT_CODES
from ..parameters import ExistingPlace

if TYPE_CHECKING:
    from tokenstore.audit.diff import StoreDiff
    from tokenstore.audit.info import StoreInfo


@click.command(epilog=EXIT_CODES)
@options.existing_store()
@click.option(
    "--diff",
    "other",
    metavar="OTHER",
    type=ExistingPlace("token store"),
    help="Show instead what differs between STORE (<) and another store (>), samples among it; 1 if anything "
    "does.",
)
@options.as_json("the manifest and each array's layout, or the differences")
@options.storage_options()
def info(store: str, other: str | None, as_json: bool, storage_options: dict[str, Any] | None) -> None:
    """Show what STORE says about itself.

    \b
    Examples:
      tokenstore info photos.zarr
      tokenstore info photos.zarr --json | jq .manifest.tokenizer
      tokenstore info photos.zarr --diff relabelled.zarr
    """
    if other is not None:
        _show_diff(tokenstore.diff(store, other, storage_options=storage_options), as_json)
        return
    result = tokenstore.info(store, storage_options=storage_options)
    if as_json:
        echo_json(result.to_dict())
        return
    echo_facts({"store": store, **result.facts, **_array_lines(result)})


def _show_diff(found: StoreDiff, as_json: bool) -> None:
    """Print what differs between two stores; exit with 1 if anything does."""
    if as_json:
        echo_json(found.to_dict())
    else:
        rows = [(each.what, each.first, each.second) for each in found.differences]
        if rows:
            rows.insert(0, ("store", found.first, found.second))
        width = max([0, *(len(what) for what, _, _ in rows)])
        for what, first, second in rows:
            echo(f"{what:<{width}}  < {first}")
            echo(f"{'':<{width}}  > {second}")
        if found.same:
            echo("the same facts and samples")
    if not found.same:
        raise click.exceptions.Exit(1)


def _array_lines(result: StoreInfo) -> dict[str, str]:
    """Return each array's layout, by the heads of the lines."""
    lines = {}
    for name, array in result.arrays.items():
        shape = " x ".join(f"{size:,}" for size in array.shape)
        shards = (
            f"{counted(array.shards, 'shard')} of {array.shard_samples:,}, chunks of {array.chunk_samples:,}"
        )
        lines[f"array {name}"] = (
            f"{array.dtype} {shape}, {array.codec}, {shards}, {human_bytes(array.nbytes)}"
        )
    return lines
