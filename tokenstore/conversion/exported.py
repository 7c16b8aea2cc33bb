"""The facts that an export of a store keeps beside its samples, for a source of these: no layout holds all.

OUT/tokenstore-export.json       the sizes of codebooks, the grid, and the names of classes
OUT/codebook.npy                 the codebook's vectors
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from tokenstore.errors import ManifestError, Parameter, SourceError
from tokenstore.format import StoreFields, read_store_fields
from tokenstore.sources import open_source
from tokenstore.sources.arrays import folder_codebook
from tokenstore.sources.base import UNKNOWN_TOKENIZER, CodeSource, Note, Source
from tokenstore.sources.code_grid import with_grid
from tokenstore.sources.files import LocalFile, whole_file
from tokenstore.sources.labels import check_class_range
from tokenstore.sources.listings import SavedListings
from tokenstore.sources.options import SourceOptions
from tokenstore.writing.export.job import EXPORT_HEADER, EXPORT_LIST

__all__ = ["open_with_facts"]

_TOKENS = "tokens"
_MOST_NBYTES = 2**28
"""The bytes of the largest list that is read."""


def open_with_facts(
    place: str, kind: str | None, listings: SavedListings | None = None, **options: Unpack[SourceOptions]
) -> Source:
    """Open a source as `open_source` does, with the facts of the export that its folder is, if it is one.

    Facts that the source or `options` have already stay. Raises SourceError for a list that is too large, for
    a file of vectors that holds none, for a label that no class has, and for an unfinished export; and what
    `open_source` raises.
    """
    _refuse_unfinished(place)
    source = open_source(place, kind, listings=listings, **options)
    return _with_facts(source, options)


def _refuse_unfinished(place: str) -> None:
    """Raise SourceError for the local folder of an export that was interrupted, which lacks samples."""
    folder = Path(place)
    if (folder / EXPORT_HEADER).is_file() and not (folder / EXPORT_LIST).is_file():
        raise SourceError(f"{place}: an unfinished export of a store. Go on with `tokenstore.export` first")


def _with_facts(source: Source, options: SourceOptions) -> Source:
    folder = Path(source.location)
    is_own = options.get("token_column") in (None, _TOKENS)
    if not isinstance(source, CodeSource) or not is_own or not (folder / EXPORT_LIST).is_file():
        return source
    try:
        facts = _facts(folder / EXPORT_LIST)
    except ValueError as error:
        note = f"{EXPORT_LIST} is not used, it is no list of an export: {error}"
        return replace(source, notes=(*source.notes, note))
    if options.get("grid") is None:
        source = _with_shape(source, facts)
    if source.grid == facts.grid or len(facts.codebook_sizes) == 1:
        vectors = folder_codebook(folder) if source.codebook is None else source.codebook
        sizes = source.codebook_sizes or facts.codebook_sizes
        source = replace(source, codebook=vectors, codebook_sizes=sizes)
    if source.class_names is None and facts.class_names is not None and not options.get("label_column"):
        source = _with_classes(source, facts.class_names)
    return replace(source, notes=(*source.notes, *_notes(source, facts)))


def _with_shape(source: CodeSource, facts: StoreFields) -> CodeSource:
    """Return a source with the grid and the views of an export, if its samples have as many codes."""
    shape, views = facts.grid, facts.views
    if views is not None and source.views is None:
        shape = (views.count, *shape)
    if math.prod(source.grid) != math.prod(shape):
        return source
    shaped = with_grid(source, shape)
    assert isinstance(shaped, CodeSource)
    has_same = source.views is None or (views is not None and source.views.count == views.count)
    return replace(shaped, grid=facts.grid, views=views) if has_same else shaped


def _facts(path: Path) -> StoreFields:
    """Return the facts of a list of an export; raise ValueError for another file."""
    try:
        listed: Any = json.loads(whole_file(LocalFile.of(path), _MOST_NBYTES, "a list of files"))
        facts = StoreFields(**read_store_fields(listed["manifest"], "manifest"))
    except (KeyError, TypeError, RecursionError, ManifestError) as error:
        raise ValueError(str(error)) from error
    return facts


def _with_classes(source: CodeSource, names: tuple[str, ...]) -> CodeSource:
    labels = {name: split.labels(0, len(split)) for name, split in source.splits.items()}
    known = {name: values for name, values in labels.items() if values is not None}
    check_class_range(known, names, f"{source.location}/{EXPORT_LIST}")
    return replace(source, class_names=names) if known else source


def _notes(source: CodeSource, facts: StoreFields) -> tuple[str, ...]:
    """Return the note on the tokenizer, whose identity no list of an export can prove."""
    name = facts.tokenizer.name
    if name == UNKNOWN_TOKENIZER or source.tokenizer_name != UNKNOWN_TOKENIZER:
        return ()
    named = Parameter("tokenizer")
    return (Note(f"exported from codes of the tokenizer {name!r:.80}; {named} says so", [named]),)
