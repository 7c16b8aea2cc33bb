"""The names that a user gives to what a source does not name: its classes, and the tokenizer of its codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tokenstore.errors import Parameter, SourceError
from tokenstore.sources.base import CodeSource, Source
from tokenstore.sources.files import LocalFile, whole_file
from tokenstore.sources.labels import check_class_range

__all__ = ["named"]

_UNKNOWN = CodeSource.tokenizer_name
_MOST_NBYTES = 2**26
"""The bytes of the largest file of class names that is read."""


def named(source: Source, class_names: str | Path | Sequence[str] | None, tokenizer: str | None) -> Source:
    """Return a source with names of classes, by label, and the name of the tokenizer that made its codes.

    `class_names` is a list, or a text file with a name in each line. Raises SourceError for names that the
    source has already, for classes without labels or of fewer names than labels, for a name that comes twice,
    and for a tokenizer of images.
    """
    if tokenizer is not None:
        source = _with_tokenizer(source, tokenizer)
    return source if class_names is None else _with_classes(source, class_names)


def _with_tokenizer(source: Source, name: str) -> Source:
    parameter = Parameter("tokenizer_name")
    if not isinstance(source, CodeSource):
        raise SourceError(
            f"{source.location}: {parameter} goes with ready codes, not with kind {source.kind}",
            parameters=[parameter],
        )
    if source.tokenizer_name not in (_UNKNOWN, name):
        raise SourceError(
            f"{source.location}: {parameter}: the codes are of {source.tokenizer_name!r}, found {name!r}",
            parameters=[parameter],
        )
    return replace(source, tokenizer_name=name)


def _with_classes(source: Source, given: str | Path | Sequence[str]) -> Source:
    parameter = Parameter("class_names")
    where = f"{source.location}: {parameter}"
    names = _read(Path(given)) if isinstance(given, str | Path) else tuple(given)
    labels = {name: split.labels(0, len(split)) for name, split in source.splits.items()}
    known = {split: column for split, column in labels.items() if column is not None}
    problem = None
    if source.class_names not in (None, names):
        problem = "the source names its classes itself"
    elif not known:
        problem = "the source has no labels"
    elif not all(isinstance(name, str) and name for name in names):
        problem = "expected a name for each class, found an empty one"
    elif len(set(names)) < len(names):
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        problem = f"expected a class once, found {twice!r} again"
    if problem is not None:
        raise SourceError(f"{where}: {problem}", parameters=[parameter])
    check_class_range(known, names, where)
    return replace(source, class_names=names)


def _read(path: Path) -> tuple[str, ...]:
    """Return the lines of a text file; raise SourceError where it cannot be read."""
    data = whole_file(LocalFile.of(path), _MOST_NBYTES, "a file of class names")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: expected a text file with a class in each line: {error}") from error
    return tuple(line.strip() for line in text.removesuffix("\n").split("\n")) if text else ()
