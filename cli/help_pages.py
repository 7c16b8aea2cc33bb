"""The pages of `--help`: names with hyphens, such as `conv-vq-symmetric`, stay on one line."""

from __future__ import annotations

import re
from collections.abc import Iterable

import click

_HYPHEN = re.compile(r"(?<=\w)-(?=\w)")
_JOINT = "\ue001"
"""The character that stands for a hyphen while lines are filled; no text has it."""


class HelpFormatter(click.HelpFormatter):
    """Click's formatter, which fills lines without breaking words at their hyphens."""

    def write_text(self, text: str) -> None:
        """Write paragraphs that fill the lines."""
        super().write_text(_HYPHEN.sub(_JOINT, text))

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        """Write a row for each term and its meaning."""
        super().write_dl([(term, _HYPHEN.sub(_JOINT, text)) for term, text in rows], col_max, col_spacing)

    def getvalue(self) -> str:
        """Return what was written."""
        return super().getvalue().replace(_JOINT, "-")


class HelpContext(click.Context):
    """A context whose pages of help are of `HelpFormatter`."""

    formatter_class = HelpFormatter
