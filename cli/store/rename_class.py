"""The command `tokenstore rename-class`."""

from __future__ import annotations

from typing import Any

import click

import tokenstore

from .. import options
from ..editing import edited
from ..main import EXIT_CODES


@click.command(epilog=EXIT_CODES)
@options.existing_store()
@click.argument("old")
@click.argument("new")
@click.argument("out", required=False)
@options.resume("the interrupted call with OUT")
@options.storage_options(of="store, or for OUT if STORE is local")
@options.storage_options("--target-storage-options", of="target, which is OUT")
def rename_class(store: str, old: str, new: str, out: str | None, **settings: Any) -> None:
    """Give the class OLD of STORE the name NEW: in a new store OUT, or else in its place.

    \b
    Examples:
      tokenstore rename-class photos.zarr n02123045 "tabby cat"
      tokenstore rename-class photos.zarr n02123045 "tabby cat" renamed.zarr
    """
    with edited("renamed", "files") as (on_progress, report):
        report(tokenstore.rename_class(store, old, new, out, on_progress=on_progress, **settings))
