"""Text from files, made safe to show: a name may hold control sequences, line breaks and faked lines."""

from __future__ import annotations

import unicodedata

__all__ = ["is_unicode", "printable"]


def is_unicode(text: str) -> bool:
    """Return whether a text is of Unicode's characters, which files can hold: half of a pair is none."""
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
