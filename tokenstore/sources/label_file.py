"""The CSV file of image paths and labels, matched with the images of a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from tokenstore.errors import SourceError
from tokenstore.sources.labels import Listing, label_splits
from tokenstore.sources.names import counted, first_indices, printable

_PATH_HEADS = frozenset({"path", "file", "filename", "file_name", "image"})
_LABEL_HEADS = frozenset({"label", "labels", "class", "target"})


def label_listings(
    path: Path, names: Mapping[str, pa.ChunkedArray]
) -> tuple[dict[str, Listing], tuple[str, ...] | None]:
    """Label the images of every split from a CSV file of two columns, path and label.

    Paths are relative to the source's folder. A heading is optional. Labels that are all integers are used
    unchanged. Otherwise the labels are class names, which are sorted and returned too.

    Raises SourceError where the file names an image that does not exist, leaves out an image, or labels one
    twice.
    """
    paths, texts = _read(path)
    by_split, class_names = label_splits({"": texts}, str(path))
    labels = by_split[""]
    first = first_indices(paths, paths)
    twice = np.flatnonzero(labels[first] != labels)
    if twice.size:
        raise SourceError(f"{path}: two different labels for {_name(paths, twice[0])!r}")
    used = np.zeros(len(paths), bool)
    listings = {}
    for split, of_split in names.items():
        at = first_indices(of_split, paths)
        unlisted = np.flatnonzero(at < 0)
        if unlisted.size:
            what = f"{path}: images of split {split} that are not listed"
            raise SourceError(counted(what, unlisted.size, _name(of_split, unlisted[0])))
        used[at] = True
        listings[split] = Listing(of_split, labels[at])
    absent = np.flatnonzero(~used[first])
    if absent.size:
        what = f"{path}: listed images that were not found"
        raise SourceError(counted(what, absent.size, _name(paths, absent[0])))
    return listings, class_names


def _read(path: Path) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """Return paths and label texts, both `pa.binary()`, without the heading."""
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
