"""The file of image paths and labels, matched with the images of a folder, as people's programs write it.

The file is text with a column of paths and one of labels. `label_table` finds both, `label_paths` says which
image a path means.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenstore.errors import SourceError
from tokenstore.sources.files import SourceFile
from tokenstore.sources.label_paths import PathMatch, match_paths
from tokenstore.sources.label_table import LabelTable, read_label_table
from tokenstore.sources.labels import LabelledImages, Listing, label_splits
from tokenstore.sources.names import counted, first_indices, printable


def label_listings(
    file: SourceFile,
    names: Mapping[str, pa.ChunkedArray],
    folder: str,
    image_column: str | None = None,
    label_column: str | None = None,
) -> LabelledImages:
    """Label the images of every split from a file of paths and labels.

    Labels that are all integers are used unchanged. Otherwise the labels are class names, which are sorted.
    A split of which no image is listed has no labels. `folder` is the name of the images' folder.

    Raises SourceError where the columns are unclear, and where the file names an image that does not exist,
    leaves out an image of a listed split, or labels one twice.
    """
    table = read_label_table(file, image_column, label_column)
    by_split, class_names = label_splits({"": table.labels}, str(file))
    labels = by_split[""]
    match = match_paths(table.paths, names, folder)
    first = first_indices(match.paths, match.paths)
    twice = np.flatnonzero(labels[first] != labels)
    if twice.size:
        raise SourceError(f"{file}: two different labels for {_name(table.paths, twice[0])!r}")
    notes = [*table.notes, *match.notes]
    used = np.zeros(len(table.paths), bool)
    listings = {}
    for split, of_split in names.items():
        at = first_indices(match.names[split], match.paths)
        if (at < 0).all() and len(names) > 1 and len(at):
            notes.append(f"split {split} has no labels, as {file.name} lists none of its images")
            listings[split] = Listing(of_split, None)
            continue
        _refuse_unlisted(file, split, of_split, at, table)
        used[at] = True
        listings[split] = Listing(of_split, labels[at])
    absent = np.flatnonzero(~used[first])
    if absent.size:
        what = f"{file}: listed images that were not found"
        raise SourceError(counted(what, absent.size, _name(table.paths, absent[0])) + _hint(match, names))
    return LabelledImages(listings, class_names, notes)


def _refuse_unlisted(
    file: SourceFile, split: str, names: pa.ChunkedArray, at: npt.NDArray[np.int32], table: LabelTable
) -> None:
    unlisted = np.flatnonzero(at < 0)
    if unlisted.size:
        what = f"{file}: images of split {split} that are not listed"
        listed = f"; the file's first path is {_name(table.paths, 0)!r}"
        raise SourceError(counted(what, unlisted.size, _name(names, unlisted[0])) + listed)


def _hint(match: PathMatch, names: Mapping[str, pa.ChunkedArray]) -> str:
    """Return what an image's path looks like, if no listed path is one."""
    if match.images:
        return ""
    first = next((column for column in names.values() if len(column)), None)
    return "" if first is None else f"; the first image is {_name(first, 0)!r}"


def _name(names: pa.ChunkedArray, row: int) -> str:
    return printable(names[int(row)].as_py())
