"""The options of reports, and those that they share with other commands on stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .options import Decorator, option, out


def page(default: str) -> Decorator[Any]:
    """Return -o/--out, the local path of the page that the command writes, as a Path or None."""
    what = "the page, whose name ends in .html; a file of that name is replaced"
    return out(what, required=False, otherwise=f"{default}, and with --json no page")


def samples(default: int, what: str) -> Decorator[Any]:
    """Return -n, the number of samples that the page shows, as `samples`."""
    return click.option(
        "-n",
        "samples",
        metavar="N",
        type=click.IntRange(1),
        default=default,
        show_default=True,
        help=f"Number of samples, {what}.",
    )


def quality(end: str = "", *, default: int | None = None, least: int = 1) -> Decorator[Any]:
    """Return --quality, the reconstructions of each split that are compared with their images."""
    return option(
        "--quality",
        metavar="N",
        type=click.IntRange(least),
        default=default,
        help="Also compare N reconstructions of each split with the images they were made of: PSNR and SSIM"
        f"{'; ' if end else ''}{end}.",
    )


def near(default: float | None = None) -> Decorator[Any]:
    """Return --near, the share of equal codes from which two samples are near duplicates."""
    return option(
        "--near",
        metavar="SHARE",
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        default=default,
        help="Report pairs of samples with at least this share of equal codes too, such as 0.9.",
    )


def page_or_json(path: Path | None, default: str, as_json: bool) -> Path | None:
    """Return the path of the page that is written; None if JSON alone is asked for."""
    return Path(default) if path is None and not as_json else path
