"""The terminal as rich sees it; a command imports this module, and rich with it, only when it works."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text
from typing_extensions import override

from tokenstore.texts import printable

from .waiting import settle

_ENDLESS = 10_000
"""The characters of a line where there is no terminal."""


class Terminal(Console):
    """A console that prints every text as one line and as it is: no markup, no emoji, no control sequence.

    `options` are those of `rich.console.Console`. A `rich.text.Text` is printed as its maker styled it. Where
    output is a file or a pipe, no row of a table is wrapped.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    @override
    def print(self, *objects: Any, **options: Any) -> None:
        settle()
        if not self.is_terminal:
            self.width = _ENDLESS
        super().print(*objects, **options)

    @override
    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **{**options, "markup": False, "emoji": False})
