"""The command `tokenstore reconstruct`."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

import tokenstore
from tokenstore.audit.pictures import FORMATS

from .. import options
from ..console import counted, echo
from ..main import EXIT_CODES
from ..parameters import Choice


class _NegativeNumbers(click.Command):
    """A command whose arguments may be numbers below zero, which click takes for options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments; raise click.NoSuchOption for an option that the command does not have."""
        known = {name for parameter in self.get_params(ctx) for name in parameter.opts}
        for word in args[: args.index("--") if "--" in args else None]:
            name = word.split("=")[0]
            if name.startswith("--") and name not in known:
                raise click.NoSuchOption(name, possibilities=get_close_matches(name, known), ctx=ctx)
        return super().parse_args(ctx, args)


@click.command(cls=_NegativeNumbers, epilog=EXIT_CODES, context_settings={"ignore_unknown_options": True})
@options.existing_store()
@click.argument("indices", metavar="INDEX...", nargs=-1, required=True, type=int)
@options.out("the folder of the images, which is made if it does not exist", folder=True)
@options.split("the first that has samples")
@click.option(
    "--format",
    "ending",
    type=Choice([ending.removeprefix(".") for ending in FORMATS]),
    default="png",
    show_default=True,
    help="The format of the images.",
)
@options.tokenizer(otherwise="the one that STORE names")
@options.device()
@options.storage_options()
def reconstruct(store: str, indices: tuple[int, ...], out: Path, ending: str, **settings: Any) -> None:
    """Write what the codes of samples of STORE give as images DIR/INDEX.png.

    A sample of video gives DIR/INDEX-FRAME.png for each frame. An INDEX below zero counts from the end.
    Images of these names are overwritten. Of a store with views, view 0 is decoded.

    \b
    Examples:
      tokenstore reconstruct photos.zarr 0 5 17 --out images/
      tokenstore reconstruct photos.zarr -1 --out images/ --split val --format jpg
    """
    written = tokenstore.reconstruct(store, indices, out, format=ending, **settings)
    files, samples = counted(len(written.files), "image"), counted(written.samples, "sample")
    echo(f"{written.folder}: {files} of {samples} of split {written.split}")
