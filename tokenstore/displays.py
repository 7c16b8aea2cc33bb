"""Small HTML tables that notebooks show of objects, and codes as coloured grids without a tokenizer."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tokenstore.texts import printable

__all__ = ["code_colours", "figure", "html_table", "two_columns"]

Pixels: TypeAlias = npt.NDArray[np.uint8]

_COLOURED = 65_536
"""The most codes whose colours follow from their vectors: a larger codebook takes seconds."""
_GOLDEN = 0.61803398875


def code_colours(size: int, codebook: npt.NDArray[np.floating[Any]] | None = None) -> Pixels:
    """Return a colour for each code, (size, 3) uint8.

    With a codebook (size, D), codes of near vectors have near colours: their first three principal
    components, each spread evenly by rank, are red, green and blue. Without, colours are as far apart as
    those of neighbouring numbers can be, and mean nothing.
    """
    usable = codebook is not None and codebook.ndim == 2 and codebook.shape[1] >= 3 and size <= _COLOURED
    if codebook is None or not usable or len(codebook) != size:
        hue = (np.arange(size) * _GOLDEN) % 1
        shifts = (np.array([[0.0, 1 / 3, 2 / 3]]) + hue[:, None]) * 2 * np.pi
        spread: Pixels = (140 + 90 * np.cos(shifts)).astype(np.uint8)
        return spread
    vectors = codebook.astype(np.float64)
    centred = np.nan_to_num(vectors - vectors.mean(0))
    _, axes = np.linalg.eigh(centred.T @ centred)
    ranks = (centred @ axes[:, -3:]).argsort(0).argsort(0)
    colours: Pixels = (32 + 208 * ranks / max(1, size - 1)).astype(np.uint8)
    return colours


def figure(pixels: Pixels, text: str, caption: str = "", width: int = 96) -> str:
    """Return an image (H, W, 3) as HTML, `width` pixels wide, with its description and a caption below."""
    from PIL import Image  # which most readers of a store do not need

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    below = f"<figcaption>{_text(caption)}</figcaption>" if caption else ""
    return (
        f'<figure style="display:inline-block;margin:4px 8px 4px 0;max-width:{width}px;font-size:11px">'
        f'<img src="data:image/png;base64,{data}" alt="{_text(text)}" width="{width}" '
        f'style="image-rendering:pixelated">{below}</figure>'
    )


def html_table(heading: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table with its heading and column names as HTML; numbers stand right, with separators."""
    head = "".join(f'<th style="text-align:left">{_text(name)}</th>' for name in columns)
    body = "".join(f"<tr>{''.join(_cell(value) for value in row)}</tr>" for row in rows)
    top = f"<thead><tr>{head}</tr></thead>" if columns else ""
    return f"<div><strong>{_text(heading)}</strong><table>{top}<tbody>{body}</tbody></table></div>"


def two_columns(heading: str, values: Mapping[str, object]) -> str:
    """Return a table of names and values as HTML, without those that are None."""
    rows = ((name, f"{value:,}" if isinstance(value, int) else value) for name, value in values.items())
    return html_table(heading, (), ((name, value) for name, value in rows if value is not None))


def _cell(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f'<td style="text-align:right">{value:,}</td>'
    return f'<td style="text-align:left">{_text(value)}</td>'


def _text(value: object) -> str:
    return html.escape(printable(str(value)))
