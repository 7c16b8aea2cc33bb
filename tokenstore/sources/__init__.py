"""Sources: the places that samples come from, as splits in a fixed order.

A source holds encoded images (folders, tar shards, Parquet files) or ready codes (arrays, the layout of the
SeiT release, and those of `layouts`). The entry point is `open_source(path)`, which finds out the kind of a
place and lists its samples. A kind is one module and one line of `registry`; other packages add kinds by
entry points. `decoding` turns images into pixels in processes of their own.

This wing imports `errors` alone. Its names are imported on first use: `kind_names()` needs no NumPy and no
Arrow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenstore.sources.base import (
        CodeSource,
        CodeSplit,
        ImageRequest,
        ImageSource,
        ImageSplit,
        MaskedSplit,
        Note,
        Source,
        count_classes,
    )
    from tokenstore.sources.detect import open_source
    from tokenstore.sources.imagenet_classes import imagenet_classes
    from tokenstore.sources.options import LARGEST_VALUE, ImageOptions, Resize, SourceOptions
    from tokenstore.sources.registry import SourceKind, kind_names, load_kind

    KINDS: tuple[str, ...]

__all__ = [
    "KINDS",
    "LARGEST_VALUE",
    "CodeSource",
    "CodeSplit",
    "ImageOptions",
    "ImageRequest",
    "ImageSource",
    "ImageSplit",
    "MaskedSplit",
    "Note",
    "Resize",
    "Source",
    "SourceKind",
    "SourceOptions",
    "count_classes",
    "imagenet_classes",
    "kind_names",
    "load_kind",
    "open_source",
]

_HOMES = {
    **dict.fromkeys(
        (
            *("CodeSource", "CodeSplit", "ImageRequest", "ImageSource", "ImageSplit", "MaskedSplit"),
            *("Note", "Source", "count_classes"),
        ),
        "base",
    ),
    **dict.fromkeys(("LARGEST_VALUE", "ImageOptions", "Resize", "SourceOptions"), "options"),
    **dict.fromkeys(("SourceKind", "kind_names", "load_kind"), "registry"),
    "imagenet_classes": "imagenet_classes",
    "open_source": "detect",
}


def __getattr__(name: str) -> Any:
    if name == "KINDS":  # not kept: packages that add kinds may come later
        return importlib.import_module("tokenstore.sources.registry").kind_names()
    if name not in _HOMES:
        raise AttributeError(f"module 'tokenstore.sources' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"tokenstore.sources.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
