"""`tokenstore tokenizers`."""

from __future__ import annotations

import importlib.util
import json

import click
from rich.console import Console
from rich.table import Table

from tokenstore.tokenizers.registry import TOKENIZERS, TokenizerKind

from .main import EXIT_CODES


@click.command(epilog=EXIT_CODES)
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
def tokenizers(as_json: bool) -> None:
    """List what `--tokenizer` takes: names, arguments, grids, codebooks, licences.

    \b
    Examples:
      tokenstore tokenizers
      tokenstore tokenizers --json | jq 'keys'
    """
    if as_json:
        kinds = {
            name: {
                "argument": kind.argument,
                "summary": kind.summary,
                "grid": kind.grid,
                "codebook": kind.codebook,
                "licence": kind.licence,
                "needs": _missing(kind),
            }
            for name, kind in TOKENIZERS.items()
        }
        click.echo(json.dumps(kinds, indent=2))
        return
    table = Table("--tokenizer", "what it is", "grid of H x W", "codebook", "licence", box=None)
    for name, kind in TOKENIZERS.items():
        missing = _missing(kind)
        needs = f" (pip install 'tokenstore[{missing}]')" if missing else ""
        table.add_row(f"{name}{kind.usage}", kind.summary + needs, kind.grid, kind.codebook, kind.licence)
    Console(highlight=False, markup=False).print(table)


def _missing(kind: TokenizerKind) -> str | None:
    """The extra that has to be installed for a kind, where its packages are not there."""
    there = all(importlib.util.find_spec(package) for package in kind.packages)
    return None if there else kind.extra
