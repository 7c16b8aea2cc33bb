"""Texts to show: sizes, times, counted things and shares, and text from files.

Such text may hold control sequences and faked lines.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from itertools import islice

__all__ = [
    "counted",
    "human_bytes",
    "human_seconds",
    "is_unicode",
    "percent",
    "printable",
    "shortened",
]


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number and its noun, in the plural (by default with an s) where the number is not 1."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def percent(share: float, digits: int = 1) -> str:
    """Return a share as per cent: 12.3 %; shares that would round to nothing have two digits that count."""
    if share and abs(share) < 0.5 * 10 ** (-2 - digits):
        return f"{100 * share:.2g} %"
    return f"{100 * share:.{digits}f} %"


def human_bytes(nbytes: float) -> str:
    """Return bytes in decimal units with three digits: 1.23 MB, where `rich.filesize` would give 1.2 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(nbytes) < 999.5:
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.3g} {unit}"
        nbytes /= 1000
    return f"{nbytes:.3g} TB"


def human_seconds(seconds: float) -> str:
    """Return a time in the unit that fits: 1.2 s, 3.4 minutes, 5.6 hours, 7.8 days."""
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"


def shortened(names: Iterable[str], count: int = 5) -> str:
    """Return the first names, with commas between and dots behind if more follow."""
    first = list(islice(names, count + 1))
    return ", ".join(first[:count]) + (", ..." if len(first) > count else "")


def is_unicode(text: str) -> bool:
    """Return whether UTF-8 can hold a text. It cannot hold half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(text: str) -> str:
    r"""Return a text in one line, with escapes such as `\x1b` for all that is not printable."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or _is_space(char) else _escape(char) for char in text)


def _is_space(char: str) -> bool:
    return unicodedata.category(char) == "Zs"


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
