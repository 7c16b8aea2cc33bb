"""A page: one HTML file with everything in it, made of a template, charts and pictures.

The page's own policy forbids it to load anything. Pictures get smaller until the page is small enough.
"""

from __future__ import annotations

import base64
import io
import itertools
import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tokenstore.audit.report.charts import Chart, numbered
from tokenstore.errors import ArgumentError
from tokenstore.files import whole_file
from tokenstore.texts import counted, human_bytes, percent, printable
from tokenstore.version import __version__

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["MAX_NBYTES", "page_path", "render_page", "write_page"]

MAX_NBYTES = 3_000_000
"""The bytes that a page has at most, as long as smaller pictures can bring it there."""

_SIDES = (256, 192, 128, 96, 64)
"""The sides in pixels that pictures are brought to, the first of which is small enough for the page."""
_QUALITY = 80
_PLAIN_SIDE = 96
"""The side in pixels up to which pictures are kept exactly, and drawn with hard edges."""


def render_page(template: str, folder: Path | None = None, /, **values: Any) -> str:
    """Render a template of this package, or of another's `folder`, with the values that it names.

    Arrays (H, W, 3) uint8 become pictures by the filter `picture`, charts elements by `chart`.
    """
    for side in _SIDES:
        page = _environment(side, folder).get_template(template).render(**values, version=__version__)
        if len(page.encode()) <= MAX_NBYTES:
            break
    return page


def page_path(path: str | os.PathLike[str]) -> Path:
    """Return the path of a page that can be written; raises ArgumentError."""
    target = Path(path)
    if target.suffix.lower() not in (".html", ".htm"):
        raise ArgumentError(f"expected a name ending in .html, found {str(path)!r}")
    if target.exists() and not target.is_file():
        raise ArgumentError(f"{path} is no file, and is left as it is")
    if not target.absolute().parent.is_dir():
        raise ArgumentError(f"the folder of {path} does not exist; make it first")
    return target


def write_page(path: Path, page: str) -> int:
    """Write a page whole or not at all, and return its bytes; raises OSError."""
    data = page.encode()
    with whole_file(path, nbytes=len(data)) as file:
        file.write(data)
    return len(data)


def _environment(side: int, folder: Path | None) -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    own = Path(__file__).parent / "templates"
    folders = [own] if folder is None else [folder, own]
    environment = Environment(
        loader=FileSystemLoader(folders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    charts = itertools.count()

    def drawn(chart: Chart) -> Markup:
        return Markup(numbered(chart.svg, next(charts)))

    environment.filters |= {
        "bytes": human_bytes,
        "chart": drawn,
        "counted": counted,
        "number": lambda value: f"{value:,}",
        "percent": percent,
        "picture": lambda image: picture(image, side),
        "plain": lambda image: max(image.shape[:2]) <= _PLAIN_SIDE,
        "safe_text": lambda text: printable(str(text)),
    }
    environment.globals["asset"] = lambda name: Markup(_asset(name))
    return environment


@cache
def _asset(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text()


def picture(image: npt.NDArray[np.uint8], side: int) -> str:
    """Return an image (H, W, 3) uint8 as a data URL of WebP, exact if small, of at most `side` pixels."""
    from PIL import Image

    drawn = Image.fromarray(np.ascontiguousarray(image))
    if max(drawn.size) > side:
        scale = side / max(drawn.size)
        width, height = (max(1, round(each * scale)) for each in drawn.size)
        drawn = drawn.resize((width, height), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    if max(image.shape[:2]) <= min(side, _PLAIN_SIDE // 2):
        drawn.save(file, "WEBP", lossless=True)
    else:
        drawn.save(file, "WEBP", quality=_QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
