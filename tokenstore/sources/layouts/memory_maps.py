"""The source of raw memory maps: files of little-endian numbers, which `metadata.json` gives shapes.

    metadata.json      `arrays`: for each file its split, its column, its dtype and its shape;
                       and, optionally, `codebook_sizes` and `class_names`
    train.bin          the codes (N, *grid) of a split, column `tokens`
    train-labels.bin   the labels (N,) of a split, column `labels`; further columns (N, ...) likewise

`tokenstore.export` writes the layout, and any program can: `array.tofile(path)`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tokenstore.codecs import NAME
from tokenstore.errors import SourceError
from tokenstore.sources.array_columns import array_column
from tokenstore.sources.base import CodeSource, SourceColumn
from tokenstore.sources.code_values import LARGEST_CODE, check_shape
from tokenstore.sources.files import json_object
from tokenstore.sources.further import missing_field, not_used, requested_fields
from tokenstore.sources.labels import check_class_range
from tokenstore.sources.layouts.rows import (
    ArrayRows,
    LayoutSplit,
    grid_of,
    joined_labels,
    whole_file_array,
)
from tokenstore.sources.names import is_plain_name
from tokenstore.sources.npy_files import StoredArray
from tokenstore.sources.registry import SourceKind
from tokenstore.sources.split_names import in_usual_order

METADATA = "metadata.json"

_FIELDS = frozenset({"split", "column", "dtype", "shape"})
_TOKENS, _LABELS = "tokens", "labels"
_MOST_METADATA_NBYTES = 2**24
_MAX_RANK = 32
_DTYPES = frozenset({"|b1", "|u1", "|i1", *(f"<{kind}{size}" for kind in "iuf" for size in (2, 4, 8))})
"""The names of the dtypes that a file can have, as NumPy writes them."""


def open_memory_maps(location: str | Path, *, columns: Sequence[str] | None = None) -> CodeSource:
    """Open a local folder of raw arrays that its `metadata.json` describes.

    Each split has the column `tokens`, codes (N, *grid) of any integer type, and optionally `labels` (N,).
    `columns` are further columns of numbers to store, of the splits that have them.

    Raises SourceError for metadata that cannot be read, for files of other lengths than they say, for labels
    that do not go with the codes, and where splits differ in their grids. The codes themselves are checked as
    they are read.
    """
    folder, where = Path(location), str(location)
    fields = requested_fields(columns, where)
    facts = _facts(folder / METADATA)
    arrays = _arrays(folder, facts["arrays"])
    known = dict.fromkeys(column for of_split in arrays.values() for column in of_split)
    for field in fields.values():
        if field not in known:
            raise missing_field(where, field, list(known))
    splits = {split: _split(folder, split, arrays[split]) for split in in_usual_order(arrays)}
    grid = grid_of({split: of_split.stored for split, of_split in splits.items()}, where)
    class_names = _class_names(folder, facts)
    labels = {split: each.all_labels for split, each in splits.items() if each.all_labels is not None}
    check_class_range(labels, class_names, where)
    further: dict[str, dict[str, SourceColumn]] = {
        split: {
            name: array_column(arrays[split][field], len(of_split))
            for name, field in fields.items()
            if field in arrays[split]
        }
        for split, of_split in splits.items()
    }
    return CodeSource(
        kind="memmap",
        location=where,
        splits=splits,
        grid=grid,
        codebook_sizes=_codebook_sizes(folder, facts, grid),
        class_names=class_names,
        notes=not_used(
            "columns", [each for each in known if each not in {_TOKENS, _LABELS, *fields.values()}]
        ),
        further={split: of_split for split, of_split in further.items() if of_split},
    )


def _facts(path: Path) -> dict[str, Any]:
    """Return the metadata, whose `arrays` is an object; raise SourceError for other metadata."""
    facts = json_object(path, _MOST_METADATA_NBYTES, "metadata in JSON")
    arrays = facts.get("arrays")
    if not isinstance(arrays, dict) or not arrays:
        raise SourceError(
            f"{path}: expected an object with `arrays`, the split, column, dtype and shape by file"
        )
    return facts


def _arrays(folder: Path, entries: Mapping[str, Any]) -> dict[str, dict[str, StoredArray]]:
    """Return the array of each column of each split; raise SourceError for what describes none."""
    arrays: dict[str, dict[str, StoredArray]] = {}
    for name, entry in entries.items():
        where = f"{folder / METADATA}: array {name!r:.80}"
        if not is_plain_name(name):
            raise SourceError(f"{where}: expected the name of a file in the same folder")
        split, column, dtype, shape = _described(entry, where)
        of_split = arrays.setdefault(split, {})
        if column in of_split:
            raise SourceError(f"{where}: split {split} has two files of {column}")
        of_split[column] = whole_file_array(folder / name, dtype, shape)
    return arrays


def _described(entry: Any, where: str) -> tuple[str, str, np.dtype[Any], tuple[int, ...]]:
    """Return the split, the column, the dtype and the shape of an array."""
    if not isinstance(entry, dict):
        raise SourceError(f"{where}: expected an object, found {type(entry).__name__}")
    split, column, dtype, shape = (entry.get(name) for name in ("split", "column", "dtype", "shape"))
    for what, name in (("split", split), ("column", column)):
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise SourceError(
                f"{where}: expected a {what} named by letters, digits, _ and -, found {name!r:.80}"
            )
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise SourceError(
            f"{where}: expected a dtype of little-endian numbers, such as <u2, found {dtype!r:.80}"
        )
    is_shape = isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)
    if not isinstance(shape, list) or not is_shape or not 1 <= len(shape) <= _MAX_RANK:
        raise SourceError(f"{where}: expected a shape of 1 to {_MAX_RANK} sizes, found {shape!r:.200}")
    return str(split), str(column), np.dtype(dtype), tuple(shape)


def _split(folder: Path, split: str, arrays: Mapping[str, StoredArray]) -> LayoutSplit:
    codes = arrays.get(_TOKENS)
    if codes is None:
        raise SourceError(
            f"{folder / METADATA}: split {split}: expected an array of the column {_TOKENS}, found "
            f"{', '.join(arrays)}"
        )
    check_shape(codes.dtype, codes.shape, codes.where)
    labels = joined_labels([arrays.get(_LABELS)], [len(codes)], str(folder))
    return LayoutSplit(ArrayRows(Path(codes.where).name, codes), labels)


def _class_names(folder: Path, facts: Mapping[str, Any]) -> tuple[str, ...] | None:
    names = facts.get("class_names")
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise SourceError(f"{folder / METADATA}: expected class_names as a list of texts")
    return tuple(names)


def _codebook_sizes(folder: Path, facts: Mapping[str, Any], grid: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the size of the one codebook, or of each that the first axis of the grid has."""
    sizes = facts.get("codebook_sizes")
    if sizes is None:
        return None
    are_sizes = isinstance(sizes, list) and all(type(n) is int and 1 <= n <= LARGEST_CODE for n in sizes)
    if not are_sizes or not sizes:
        raise SourceError(f"{folder / METADATA}: expected codebook_sizes as a list, found {sizes!r:.200}")
    return tuple(sizes) if len(sizes) in (1, grid[0]) else None


def _holds(folder: Path) -> bool:
    if not (folder / METADATA).is_file():
        return False
    try:
        entries = _facts(folder / METADATA)["arrays"].values()
    except SourceError:  # the metadata of something else
        return False
    return all(isinstance(entry, dict) and entry.keys() >= _FIELDS for entry in entries)


SOURCE = SourceKind(
    open=open_memory_maps,
    holds=_holds,
    looked_for=f"raw arrays ({METADATA} with `arrays`)",
    options=frozenset({"columns"}),
    precedence=1,  # subtle: a split named video makes a video.bin, as 1X's data have
)
"""The kind `memmap`."""
