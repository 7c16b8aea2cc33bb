"""The contents of sources of ready codes: what a conversion would read of them, and what it stores."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import tokenstore
from tokenstore.sources import CodeSource, open_source
from tokenstore.sources.base import CodeSplit, Source


def opened(place: str | Path, kind: str, **options: Any) -> CodeSource:
    """Open a place whose kind is found out, and has to be `kind`."""
    source = open_source(place, **options)
    assert isinstance(source, CodeSource)
    assert source.kind == kind
    return source


def read_everywhere(split: CodeSplit, expected: npt.ArrayLike) -> None:
    """Read a split in ranges of many lengths and orders, also in a copy as another process gets it."""
    expected = np.asarray(expected)
    assert len(split) == len(expected)
    size = len(expected)
    ranges = [
        (0, size),
        (size - 1, size),
        (0, 1),
        (size // 2, size),
        (size // 3, size // 2),
        (size, size),
        (0, 0),
    ]
    again = pickle.loads(pickle.dumps(split))
    for start, stop in ranges:
        for each in (split, again):
            codes = each.codes(start, stop)
            assert codes.dtype.kind == "u"
            assert codes.dtype.isnative
            assert np.array_equal(codes, expected[start:stop]), (start, stop)
            assert len(each.names(start, stop)) == stop - start
    names = split.names(0, size).to_pylist()
    assert len(set(names)) == size
    assert split.fingerprint() == again.fingerprint()


def converted(place: str | Path, out: Path, **options: Any) -> tokenstore.TokenStore:
    """Convert a place, and open the store."""
    tokenstore.convert(place, out, workers=0, **options)
    return tokenstore.open(out)


def read_all(source: Source) -> None:
    """Read whatever a conversion reads of a source of ready codes."""
    assert isinstance(source, CodeSource)
    for name, split in source.splits.items():
        count = len(split)
        split.fingerprint()
        split.labels(0, count)
        assert len(split.names(0, count)) == count
        for start in range(0, count, 5):
            split.codes(start, min(start + 5, count))
        for column in source.further.get(name, {}).values():
            column.read(0, count)
