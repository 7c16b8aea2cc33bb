"""The names and columns that a user gives a source beside its own: of classes and tokenizers, and tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from tokenstore.errors import Parameter, SourceError
from tokenstore.sources.array_columns import SOFT_LABELS, SoftLabelColumn, soft_label_columns
from tokenstore.sources.base import CodeSource, Further, MaskedSplit, Source
from tokenstore.sources.files import LocalFile, whole_file
from tokenstore.sources.labels import check_class_range
from tokenstore.sources.options import SourceOptions
from tokenstore.sources.sample_table import table_columns

__all__ = ["named", "with_columns"]

_SOFT_TOP = 10
"""The classes that are kept of a sample's soft labels, by default."""
_UNKNOWN = CodeSource.tokenizer_name
_MOST_NBYTES = 2**26
"""The bytes of the largest file of class names that is read."""


def named(source: Source, class_names: str | Path | Sequence[str] | None, tokenizer: str | None) -> Source:
    """Return a source with names of classes, by label, and the name of the tokenizer that made its codes.

    `class_names` is a list, or a text file with a name in each line; without labels they name the values of
    label maps. Raises SourceError for names that the source has already, for classes without labels or label
    maps or of fewer names than labels, for a name that comes twice, and for a tokenizer of images.
    """
    if tokenizer is not None:
        source = _with_tokenizer(source, tokenizer)
    return source if class_names is None else _with_classes(source, class_names)


def with_columns(source: Source, options: SourceOptions) -> Source:
    """Return a source with the columns of a table and the soft labels that `options` name.

    Raises SourceError for a table and soft labels that do not fit the source, or for `soft_top` alone.
    """
    table, soft, top = options.get("table"), options.get("soft_labels"), options.get("soft_top")
    if table is not None:
        asked = options.get("columns"), options.get("image_column"), options.get("source_storage_options")
        further, notes = table_columns(source, table, *asked)
        source = replace(source, further=_joined(source, further), notes=(*source.notes, *notes))
    if soft is not None:
        samples = {name: len(split) for name, split in source.splits.items()}
        columns = soft_label_columns(soft, samples, _SOFT_TOP if top is None else top)
        named_columns = {split: {SOFT_LABELS: column} for split, column in columns.items()}
        notes = tuple(_soft_note(split, column) for split, column in columns.items())
        source = replace(source, further=_joined(source, named_columns), notes=(*source.notes, *notes))
    elif top is not None:
        idle, needed = Parameter("soft_top"), Parameter("soft_labels")
        raise SourceError(f"{source.location}: {idle} goes with {needed}", parameters=[idle, needed])
    return source


def _soft_note(split: str, column: SoftLabelColumn) -> str:
    what = "logits" if column.are_logits else "probabilities"
    return (
        f"soft labels of split {split}: {what} of {column.form.classes} classes, the {column.top} most "
        "probable kept"
    )


def _joined(source: Source, further: Further) -> Further:
    """Return the further columns of a source and others; raise SourceError for a name that both have."""
    both = {**source.further}
    for split, columns in further.items():
        own = {*both.get(split, {}), *_stored_columns(source, split)}
        twice = next((name for name in columns if name in own), None)
        if twice is not None:
            raise SourceError(
                f"{source.location}: split {split} has a column {twice!r} of its own; give one of them "
                "another name"
            )
        both[split] = {**both.get(split, {}), **columns}
    return both


def _stored_columns(source: Source, split: str) -> Iterable[str]:
    return source.splits[split].columns if isinstance(source, CodeSource) else ()


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
    elif not known and not any(isinstance(split, MaskedSplit) for split in source.splits.values()):
        problem = "the source has neither labels nor label maps"
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
