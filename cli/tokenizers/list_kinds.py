"""The command `tokenstore tokenizers`."""

from __future__ import annotations

import json

import click

from .. import options
from ..main import EXIT_CODES

_HEADS = ("--tokenizer", "grid of H x W", "codebook", "licence", "what it is")
_WIDTH = 250
"""A width in columns for every row: a terminal wraps longer lines, and nothing is cut off."""


@click.command(epilog=EXIT_CODES)
@options.as_json("the tokenizers by name")
def tokenizers(as_json: bool) -> None:
    """List what `--tokenizer` takes: names, arguments, grids, codebooks, licences.

    \b
    Examples:
      tokenstore tokenizers
      tokenstore tokenizers --json | jq 'keys'
    """
    from rich.table import Column, Table

    from tokenstore.tokenizers import tokenizer_kinds

    from ..terminal import Terminal

    kinds = tokenizer_kinds()
    if as_json:
        facts = {
            name: {
                "argument": kind.argument,
                "summary": kind.summary,
                "grid": kind.grid,
                "codebook": kind.codebook,
                "licence": kind.licence,
                "needs": kind.missing_extra,
            }
            for name, kind in kinds.items()
        }
        click.echo(json.dumps(facts, indent=2))
        return
    table = Table(*(Column(head, no_wrap=True) for head in _HEADS), box=None)
    for name, kind in kinds.items():
        missing = kind.missing_extra
        needs = f" (pip install 'tokenstore[{missing}]')" if missing else ""
        table.add_row(f"{name}{kind.usage}", kind.grid, kind.codebook, kind.licence, kind.summary + needs)
    Terminal(width=_WIDTH).print(table, soft_wrap=True)
