"""Codecs: codes to bytes and back, without files and without a network.

- `chunks.py` has the protocols: the abilities of a codec are properties of its class.
- `registry.py` has a line for each codec: `named_codec` and `codec_from_zarr` are the entry points.
- `bitpack.py`, `zstd.py` and `context/` (with a README of its own) are the codecs of codes.
- `ragged.py` has the codecs of texts and lists, `columns.py` says what an array beside the tokens holds.
- `zarr.py` makes Zarr codecs of them, which Zarr finds through entry points.

Importing this wing imports no numpy and no numba: names are imported on first use, and kernels are in modules
of their own.
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
    from tokenstore.codecs.bitpack import Bitpack, bit_width, code_dtype, sample_nbytes
    from tokenstore.codecs.chunks import (
        MAX_FIT_CODES,
        ChunkCodec,
        DeviceForm,
        MarkedCodec,
        OnFitProgress,
        SampleCodec,
        SampleSpans,
    )
    from tokenstore.codecs.columns import (
        FORM_FEATURES,
        NAME,
        TEXT,
        Column,
        ColumnForm,
        column_form,
        list_column,
    )
    from tokenstore.codecs.context.given import GivenViews
    from tokenstore.codecs.context.model import ContextModel
    from tokenstore.codecs.views import MAX_VIEWS, Box, Views, box_problem
    from tokenstore.codecs.zstd import Zstd

__all__ = [
    "DEFAULT_CODEC",
    "FORM_FEATURES",
    "MAX_CODEBOOK_SIZE",
    "MAX_FIT_CODES",
    "MAX_VIEWS",
    "NAME",
    "TEXT",
    "Bitpack",
    "Box",
    "ChunkCodec",
    "Column",
    "ColumnForm",
    "ContextModel",
    "DeviceForm",
    "GivenViews",
    "MarkedCodec",
    "OnFitProgress",
    "SampleCodec",
    "SampleSpans",
    "Views",
    "Zstd",
    "bit_width",
    "bitpack",
    "box_problem",
    "code_dtype",
    "codec_class",
    "codec_from_zarr",
    "codec_names",
    "column_form",
    "list_column",
    "named_codec",
    "register_codec",
    "sample_nbytes",
]

_HOMES = {
    "FORM_FEATURES": "columns",
    "MAX_FIT_CODES": "chunks",
    "MAX_VIEWS": "views",
    "NAME": "columns",
    "TEXT": "columns",
    "Bitpack": "bitpack",
    "Box": "views",
    "ChunkCodec": "chunks",
    "Column": "columns",
    "ColumnForm": "columns",
    "ContextModel": "context.model",
    "DeviceForm": "chunks",
    "GivenViews": "context.given",
    "MarkedCodec": "chunks",
    "OnFitProgress": "chunks",
    "SampleCodec": "chunks",
    "SampleSpans": "chunks",
    "Views": "views",
    "Zstd": "zstd",
    "bit_width": "bitpack",
    "box_problem": "views",
    "code_dtype": "bitpack",
    "column_form": "columns",
    "list_column": "columns",
    "sample_nbytes": "bitpack",
}
_MODULES = frozenset({"bitpack"})


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
