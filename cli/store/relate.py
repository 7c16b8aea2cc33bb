"""The command `tokenstore relate`."""

from __future__ import annotations

from typing import Any

import click

import tokenstore

from .. import options
from ..editing import edited
from ..main import EXIT_CODES


@click.command(epilog=EXIT_CODES)
@options.existing_store()
@click.argument("tokenizer")
@click.argument("out", required=False)
@options.resume("the interrupted call with OUT")
@options.storage_options(of="store, or for OUT if STORE is local")
@options.storage_options("--target-storage-options", of="target, which is OUT")
def relate(store: str, tokenizer: str, out: str | None, **settings: Any) -> None:
    """Say which TOKENIZER made the codes of STORE: in a new store OUT, or else in its place.

    A store of ready codes does not always know. The vectors of its codebook have to be the tokenizer's; its
    networks then take images. `tokenstore tokenizers` lists what TOKENIZER may be.

    \b
    Examples:
      tokenstore relate seit.zarr vit-vqgan:imagenet_vitvq_base.ckpt
      tokenstore relate codes.zarr default related.zarr
    """
    with edited("related", "files") as (on_progress, report):
        report(tokenstore.relate(store, tokenizer, out, on_progress=on_progress, **settings))
