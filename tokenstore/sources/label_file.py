"""A CSV file of image paths and labels, and its match with the images that were found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from tokenstore.errors import SourceError
from tokenstore.sources.listing import Listing, counted, indices, label_splits, printable

_PATH_HEADS = frozenset({"path", "file", "filename", "file_name", "image"})
_LABEL_HEADS = frozenset({"label", "labels", "class", "target"})


def label_listings(
    path: Path, names: Mapping[str, pa.ChunkedArray]
) -> tuple[dict[str, Listing], tuple[str, ...] | None]:
    """Label the images of every split from a CSV file of two columns, path and label.

    Paths are relative to the source's folder. Labels that are all integers are taken as they are;
    otherwise they are class names, sorted, and returned too. A heading is optional. Raises SourceError
    where the file names an image that is not there, misses one that is, or labels one twice.
    """
    paths, texts = _read(path)
    by_split, class_names = label_splits({"": texts}, str(path))
    labels = by_split[""]
    first = indices(paths, paths)
    twice = np.flatnonzero(labels[first] != labels)
    if twice.size:
        raise SourceError(f"{path}: two different labels for {_name(paths, twice[0])!r}")
    used = np.zeros(len(paths), bool)
    listings = {}
    for split, found in names.items():
        at = indices(found, paths)
        unlisted = np.flatnonzero(at < 0)
        if unlisted.size:
            what = f"{path}: images of split {split} that are not listed"
            raise SourceError(counted(what, unlisted.size, _name(found, unlisted[0])))
        used[at] = True
        listings[split] = Listing(found, labels[at])
    absent = np.flatnonzero(~used[first])
    if absent.size:
        what = f"{path}: listed images that were not found"
        raise SourceError(counted(what, absent.size, _name(paths, absent[0])))
    return listings, class_names


def _read(path: Path) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """Paths and label texts, both `pa.binary()`, without the heading."""
    names = ["path", "label"]
    try:
        table = csv.read_csv(
            path,
            read_options=csv.ReadOptions(column_names=names),
            convert_options=csv.ConvertOptions(column_types=dict.fromkeys(names, pa.binary())),
        )
    except OSError as error:
        raise SourceError(f"{path}: the labels file cannot be read: {error.strerror or error}") from error
    except pa.ArrowInvalid as error:
        raise SourceError(f"{path}: expected a CSV file of two columns, path and label: {error}") from error
    head = [_name(table[name], 0).strip("\ufeff ").lower() for name in names] if len(table) else names
    if head[0] in _PATH_HEADS and head[1] in _LABEL_HEADS:
        table = table.slice(1)
    if not len(table):
        raise SourceError(f"{path}: the labels file lists no images")
    return pc.replace_substring_regex(table["path"], r"^(\./+)+", ""), table["label"]


def _name(names: pa.ChunkedArray, row: int) -> str:
    return printable(names[int(row)].as_py())
