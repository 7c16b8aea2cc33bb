"""The command `seitpp report`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from .. import options
from ..console import echo_json, exit_with, finished, human_bytes
from ..main import EXIT_CODES, spoken
from ..report_options import page, page_or_json, samples

_PAGE = "runs.html"


@click.command(epilog=EXIT_CODES)
@click.argument(
    "runs", metavar="RUNS...", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False)
)
@page(_PAGE)
@options.as_json("the figures of the page; no page is then written unless --out is given")
@samples(8, "of segmenters: image, label map and predicted label map")
def report(runs: tuple[str, ...], out: Path | None, as_json: bool, **settings: Any) -> None:
    """Make one HTML page that shows training runs: curves, classes, confusions, calibration, pictures.

    RUNS are the folders of runs. Figures by class, confusions, calibration and pictures are of runs whose
    folder was evaluated: `seitpp evaluate RUN --store STORE` writes them there. Files of a run that are
    damaged, and folders that hold none, are named, all else is shown, and the exit code is 1. The page needs
    no network.

    \b
    Examples:
      seitpp evaluate runs/finetuned --store imagenet.zarr --split val
      seitpp report runs/finetuned -o finetuned.html
      seitpp report runs/scratch runs/finetuned -o both.html
      seitpp report runs/* --json > figures.json
    """
    from seitpp_models.reporting import report as make

    from ..progress import step_bars

    started = time.monotonic()
    with step_bars() as on_progress:
        made = make(*runs, out=page_or_json(out, _PAGE, as_json), on_progress=on_progress, **settings)
    if as_json:
        echo_json(made.to_dict())
    elif made.path is not None:
        finished(made.path, f"{human_bytes(made.nbytes)}; open it in a browser", started)
    exit_with([spoken(problem) for problem in made.problems])
