"""The contents of a source of images, read locally and at a URL, as plain values to compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec

from tokenstore.errors import SampleError, SourceError
from tokenstore.sources import open_source
from tokenstore.sources.base import ImageSource

PLACE = "memory://sources"


def outcome(where: str | Path, kind: str) -> Any:
    """Return all that a conversion reads of a source, or the error that refuses it, without its place."""
    try:
        source = open_source(where, kind)
    except SourceError as error:
        return str(error).replace(str(where), "SRC")
    assert isinstance(source, ImageSource)
    splits = {}
    for name, split in source.splits.items():
        images = [
            str(image).replace(str(where), "SRC") if isinstance(image, SampleError) else image
            for image in split.request(0, len(split)).read()
        ]
        labels = split.labels(0, len(split))
        facts = split.names(0, len(split)).to_pylist(), None if labels is None else labels.tolist()
        splits[name] = (*facts, split.fingerprint(), images)
    return splits, source.class_names, source.notes


def outcomes(path: Path, kind: str) -> tuple[Any, Any]:
    """Return the outcome of a local file, and that of a copy in remote storage."""
    url = f"{PLACE}/{path.name}"
    fsspec.filesystem("memory").pipe_file(url, path.read_bytes())
    return outcome(path, kind), outcome(url, kind)
