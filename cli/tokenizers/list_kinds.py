"""The command `tokenstore tokenizers`."""

from __future__ import annotations

import click

from .. import options
from ..console import echo, echo_json
from ..main import EXIT_CODES


@click.command(epilog=EXIT_CODES)
@options.as_json("the tokenizers by name")
def tokenizers(as_json: bool) -> None:
    """List what `--tokenizer` takes: names, arguments, grids, codebooks, licences.

    \b
    Examples:
      tokenstore tokenizers
      tokenstore tokenizers --json | jq 'keys'
    """
    from tokenstore.tokenizers import tokenizer_kinds

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
        echo_json(facts)
        return
    for name, kind in kinds.items():
        missing = kind.missing_extra
        needs = f" (pip install 'tokenstore[{missing}]')" if missing else ""
        echo(f"{name}{kind.usage}", bold=True)
        echo(f"    {kind.summary}{needs}")
        echo(f"    grid of H x W: {kind.grid}; codebook: {kind.codebook}; licence: {kind.licence}")
