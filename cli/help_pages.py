"""The pages of `--help`: names with hyphens, such as `conv-vq-symmetric`, stay on one line."""

from __future__ import annotations

import re
from collections.abc import Iterable

import click

_HYPHEN = re.compile(r"(?<=\w)-(?=\w)")
_JOINT = "\ue001"
"""The character that stands for a hyphen while lines are filled; no text has it."""


class HelpFormatter(click.HelpFormatter):
    """Click's formatter, which fills lines without breaking words at their hyphens if they fit a line."""

    def write_text(self, text: str) -> None:
        """Write paragraphs that fill the lines."""
        super().write_text(_joined(text, self.width - self.current_indent))

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        """Write a row for each term and its meaning."""
        room = self.width - col_max - col_spacing - 2
        super().write_dl([(term, _joined(text, room)) for term, text in rows], col_max, col_spacing)

    def getvalue(self) -> str:
        """Return what was written."""
        return super().getvalue().replace(_JOINT, "-")


def _joined(text: str, room: int) -> str:
    """Return the text with joints for hyphens in the words that fit into so many columns."""
    return re.sub(
        r"\S+", lambda word: _HYPHEN.sub(_JOINT, word[0]) if len(word[0]) <= room else word[0], text
    )


class HelpContext(click.Context):
    """The context of a command whose help is written by `HelpFormatter`."""

    formatter_class = HelpFormatter
