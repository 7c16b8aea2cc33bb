"""The command `tokenstore report`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

import tokenstore

from .. import options, source_options, training_options
from ..console import echo_json, exit_with, finished, human_bytes, refuse_idle_options
from ..main import EXIT_CODES, spoken
from ..report_options import near, page, page_or_json, quality, samples

_PAGE = "report.html"


@click.command(epilog=EXIT_CODES)
@options.existing_store("stores", nargs=-1)
@page(_PAGE)
@options.as_json("the figures of the page; no page is then written unless --out is given")
@samples(24, "by class where there are labels")
@quality("0 for none", default=32, least=0)
@near(0.9)
@training_options.augment(["seitpp"], "SeiT++'s, of which a few samples show a flip, a crop and ColorAdapt")
@training_options.adapter("default")
@click.option("--verify", is_flag=True, help="Check every byte of the store, too, and show the result.")
@source_options.originals()
@options.tokenizer(otherwise="the one that STORE names")
@options.device()
@options.storage_options()
def report(stores: tuple[str, ...], out: Path | None, as_json: bool, **settings: Any) -> None:
    """Make one HTML page that shows a store, or two side by side: pictures, sizes, codes and more.

    The page needs no network, and opens in any browser. Its figures are those of `tokenstore stats`, `verify`
    and `dedupe`. Of a store of more than 67 million codes, codes are counted in a part of the samples, and
    the page says in which. Pictures are left out, with the reason, where the tokenizer or the images cannot
    be had. A damaged store is shown as far as it can be read, and one store of two if the other cannot be
    opened; the page and the command say what is wrong, and the exit code is 1.

    \b
    Examples:
      tokenstore report photos.zarr -o photos.html
      tokenstore report photos.zarr --images /data/photos --verify --augment seitpp
      tokenstore report photos.zarr recoded.zarr -o both.html
      tokenstore report photos.zarr --json > photos.json
    """
    refuse_idle_options({"adapter": "--adapter"}, "--augment", settings["augment"] is None)
    from ..progress import step_bars

    started = time.monotonic()
    out = page_or_json(out, _PAGE, as_json)
    with step_bars() as on_progress:
        made = tokenstore.report(*stores, out=out, on_progress=on_progress, **settings)
    if as_json:
        echo_json(made.to_dict())
    elif made.path is not None:
        finished(made.path, f"{human_bytes(made.nbytes)}; open it in a browser", started)
    exit_with([spoken(problem) for problem in made.problems])
