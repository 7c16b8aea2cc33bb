"""The check that texts of labels are classes: no measured numbers, and no lists of several labels."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from tokenstore.errors import SourceError
from tokenstore.sources.names import printable

__all__ = ["NoClassesError", "check_class_words"]

_NUMBER = re.compile(rb"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_WHOLE = re.compile(rb"[-+]?[0-9]+(\.0*)?")
_MISSING = frozenset((b"nan", b"na", b"n/a", b"null", b"none", b"inf", b"-inf"))
"""The texts, in lower case, that programs write in the place of a missing number."""
_NUMBERS = re.compile(rb"[-+]?[0-9]+([,;|\s]+[-+]?[0-9]+)+")
_LISTED = re.compile(rb"\s*[;|]\s*")
_COMMAS = re.compile(rb",(?!\s)")
"""A comma without a space after it: `tench, Tinca tinca` is one class."""


class NoClassesError(SourceError):
    """The texts of labels are no classes."""


def check_class_words(words: Sequence[bytes], where: str) -> None:
    """Raise NoClassesError for distinct texts of labels that are measured numbers, or lists of labels.

    Whole numbers are classes, and so is `3.0`, which pandas makes of 3 in a column with gaps.
    """
    numbers = [word for word in words if _NUMBER.fullmatch(word)]
    fractions = [word for word in numbers if not _WHOLE.fullmatch(word)]
    if 2 * len(fractions) > len(words) or (fractions and len(numbers) == len(words)):
        raise _refusal(where, "numbers that are not whole", fractions[0])
    gaps = [word for word in words if word.lower() in _MISSING]
    if numbers and gaps and len(numbers) + len(gaps) == len(words):
        raise _refusal(where, "whole numbers with gaps", gaps[0])
    several = _first_list(words)
    if several is not None:
        raise _refusal(where, "several labels of one sample", several)


def _first_list(words: Sequence[bytes]) -> bytes | None:
    """Return the first text that lists several labels, or None."""
    lists = [word for word in words if _NUMBERS.fullmatch(word)]
    if lists and all(_NUMBERS.fullmatch(word) or _WHOLE.fullmatch(word) for word in words):
        return lists[0]
    for word in words:
        parts = _LISTED.split(word)
        is_list = word.startswith(b"[") and word.endswith(b"]")  # as Python and JSON write one
        if is_list or b"\n" in word or (len(parts) > 1 and all(parts)):
            return word
    # Commas are parts of many names: some part has to occur on its own or in another text.
    parted = {word: _COMMAS.split(word) for word in words}
    counts = Counter(part.strip() for parts in parted.values() for part in set(parts))
    alike = (word for word, parts in parted.items() if any(counts[part.strip()] > 1 for part in parts))
    return next((word for word in alike if len(parted[word]) > 1), None)


def _refusal(where: str, what: str, example: bytes) -> NoClassesError:
    return NoClassesError(
        f"{where}: expected a class as each label, a whole number or a name, found {what}, such as "
        f"{printable(example)!r:.80}"
    )
