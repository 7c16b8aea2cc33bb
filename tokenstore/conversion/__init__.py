"""Conversion: images and a tokenizer, or ready codes, in; a store out.

`convert` opens the source, loads the tokenizer and writes the store; `options` holds what can be asked for,
the progress and the result. `images` and `codes` each say how a source of their kind becomes a store's spec
and shards. A conversion that was killed and resumed gives the same bytes as one that was not.

The entry point is `tokenstore.convert`. This wing may import every other wing of tokenstore.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenstore.conversion.codes import codebook_fingerprint
    from tokenstore.conversion.convert import convert_source
    from tokenstore.conversion.options import Conversion, ConvertOptions, Progress

__all__ = [
    "Conversion",
    "ConvertOptions",
    "Progress",
    "codebook_fingerprint",
    "convert_source",
]

_HOMES = {
    "Conversion": "options",
    "ConvertOptions": "options",
    "Progress": "options",
    "codebook_fingerprint": "codes",
    "convert_source": "convert",
}


def __getattr__(name: str) -> Any:
    # imported on first use, so that a wing costs only what is used of it
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
