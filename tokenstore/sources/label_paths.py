"""The images that the paths in a file of labels mean.

Paths are relative to the source's folder. Where they are not, the file was made elsewhere: paths are absolute
or begin with the folder's name, have backslashes, lack the ending or the folders, or write accents otherwise.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from tokenstore.sources.names import first_indices

_Change = Callable[[pa.ChunkedArray], pa.ChunkedArray]


@dataclass(frozen=True)
class PathMatch:
    """The listed paths and the names of images, changed so that equal ones mean the same image."""

    paths: pa.ChunkedArray
    names: Mapping[str, pa.ChunkedArray]
    images: int
    """The number of images that are listed."""
    notes: tuple[str, ...] = ()


def match_paths(paths: pa.ChunkedArray, names: Mapping[str, pa.ChunkedArray], folder: str) -> PathMatch:
    """Match listed paths with the names of images by the first way that gives every path an image.

    Otherwise the way is taken that finds the most images. A way by which two paths or two images become one
    is none.
    """
    plain = _plain(paths)
    listed, images = len(plain.unique()), sum(len(column) for column in names.values())
    best: PathMatch | None = None
    for what, change_path, change_name in _ways(folder):
        changed, keys = change_path(plain), {split: change_name(column) for split, column in names.items()}
        together = pa.chunked_array(
            [chunk for column in keys.values() for chunk in column.chunks], pa.binary()
        )
        matched = int((first_indices(together, changed) >= 0).sum())
        if best is not None and matched <= best.images:
            continue
        if what and (len(changed.unique()) < listed or len(together.unique()) < images):
            continue
        best = PathMatch(
            changed, keys, matched, (f"paths in the labels file are matched {what}",) if what else ()
        )
        if (first_indices(changed, together) >= 0).all():
            break
    assert best is not None
    return best


def _ways(name: str) -> list[tuple[str, _Change, _Change]]:
    """Return the ways to match: what each does, and how it changes paths and names."""
    folder = re.escape(os.fsencode(name) or b"/").decode(errors="replace")

    def below(paths: pa.ChunkedArray) -> pa.ChunkedArray:
        return _replaced(_slashed(paths), rf"^(.*?/)?{folder}/", "")

    return [
        ("", _same, _same),
        ("with / for backslashes", _slashed, _same),
        ("from the source's folder on", below, _same),
        ("without endings", _same, _stem),
        ("from the source's folder on and without endings", below, _stem),
        ("by the names of files alone", base_names, base_names),
        ("by the names of files alone, without endings", base_names, lambda names: _stem(base_names(names))),
        ("by the composed form of accents", _composed, _composed),
    ]


def _plain(paths: pa.ChunkedArray) -> pa.ChunkedArray:
    return _replaced(paths, r"^(\./+)+", "")


def _same(names: pa.ChunkedArray) -> pa.ChunkedArray:
    return names


def _slashed(names: pa.ChunkedArray) -> pa.ChunkedArray:
    return _plain(_replaced(names, r"\\+", "/"))


def base_names(names: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the names of files behind the last slash or backslash of paths, `pa.binary()`."""
    return _replaced(_slashed(names), r"^.*/", "")


def _stem(names: pa.ChunkedArray) -> pa.ChunkedArray:
    return _replaced(names, r"\.[^./]*$", "")


def _composed(names: pa.ChunkedArray) -> pa.ChunkedArray:
    texts = (name.decode("utf-8", "surrogateescape") for name in names.to_pylist())
    forms = [unicodedata.normalize("NFC", text).encode("utf-8", "surrogateescape") for text in texts]
    return pa.chunked_array([pa.array(forms, pa.binary())], pa.binary())


def _replaced(names: pa.ChunkedArray, pattern: str, by: str) -> pa.ChunkedArray:
    return pc.replace_substring_regex(names, pattern, by)
