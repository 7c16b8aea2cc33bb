"""Texts to show: sizes, and text from files, which may hold control sequences and faked lines."""

from __future__ import annotations

import unicodedata

__all__ = ["human_bytes", "is_unicode", "printable"]


def human_bytes(nbytes: float) -> str:
    """Return bytes in decimal units with three digits: 1.23 MB, where `rich.filesize` would give 1.2 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(nbytes) < 999.5:
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.3g} {unit}"
        nbytes /= 1000
    return f"{nbytes:.3g} TB"


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
