"""Sources of samples: image folders, tar shards, Parquet, the SeiT release layout, arrays of codes."""

from __future__ import annotations

from tokenstore.sources.base import CodeSource, CodeSplit, ImageRequest, ImageSource, ImageSplit, Source
from tokenstore.sources.detect import KINDS, open_source

__all__ = [
    "KINDS",
    "CodeSource",
    "CodeSplit",
    "ImageRequest",
    "ImageSource",
    "ImageSplit",
    "Source",
    "open_source",
]
