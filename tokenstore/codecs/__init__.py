"""Codecs: codes to bytes and back, without files and without a network.

- `chunks.py` has the protocols: the abilities of a codec are properties of its class.
- `registry.py` has a line for each codec: `named_codec` and `codec_from_zarr` are the entry points.
- `bitpack.py`, `zstd.py` and `context/` (with a README of its own) are the codecs.
- `zarr.py` makes Zarr codecs of them, which Zarr finds through entry points.

Importing this wing imports no numba: kernels are in modules of their own, imported on first use.
May import: `errors`, `machine`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tokenstore.codecs.registry import (
    DEFAULT_CODEC,
    MAX_CODEBOOK_SIZE,
    codec_class,
    codec_from_zarr,
    codec_names,
    named_codec,
    register_codec,
)

if TYPE_CHECKING:
    from tokenstore.codecs import bitpack
    from tokenstore.codecs.chunks import ChunkCodec, DeviceForm, SampleCodec, SampleSpans

__all__ = [
    "DEFAULT_CODEC",
    "MAX_CODEBOOK_SIZE",
    "ChunkCodec",
    "DeviceForm",
    "SampleCodec",
    "SampleSpans",
    "bitpack",
    "codec_class",
    "codec_from_zarr",
    "codec_names",
    "named_codec",
    "register_codec",
]


def __getattr__(name: str) -> Any:
    # Imported on first use, so that the codecs' names can be listed without numpy.
    if name == "bitpack":
        return importlib.import_module("tokenstore.codecs.bitpack")
    if name in __all__:
        return getattr(importlib.import_module("tokenstore.codecs.chunks"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
