"""The samples of a source of images as plain Python values."""

from __future__ import annotations

import numpy as np

from tokenstore.errors import SampleError
from tokenstore.sources.base import ImageSource


def listed(source: ImageSource) -> dict[str, list[str]]:
    """Return the names of the samples of each split."""
    return {name: split.names(0, len(split)).to_pylist() for name, split in source.splits.items()}


def labels(source: ImageSource, split: str = "train") -> list[int] | None:
    """Return the labels of a split."""
    found = source.splits[split].labels(0, len(source.splits[split]))
    assert found is None or found.dtype == np.int32
    return None if found is None else found.tolist()


def contents(source: ImageSource, split: str = "train") -> list[bytes | SampleError]:
    """Return the file of each sample of a split, or the reason why it is bad."""
    return list(source.splits[split].request(0, len(source.splits[split])).read())
