"""The table of all layouts that a store can be exported to, by name."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from tokenstore.errors import ArgumentError, Parameter, did_you_mean

if TYPE_CHECKING:
    from tokenstore.writing.export.base import Layout

__all__ = ["LAYOUTS", "layout_named"]

LAYOUTS = {
    "npy": ("npy", "Npy"),
    "npz": ("npz", "Npz"),
    "memmap": ("memmap", "Memmap"),
    "safetensors": ("safetensors_files", "SafetensorsFiles"),
    "jsonl": ("json_lines", "JsonLines"),
    "parquet": ("parquet", "ParquetFiles"),
    "hf": ("hugging_face", "HuggingFace"),
    "webdataset": ("webdataset", "WebDataset"),
    "llamagen": ("llamagen", "LlamaGen"),
}
"""The module and the class of every layout, imported on first use."""


def layout_named(name: str) -> Layout:
    """Return the layout of a name; raise ArgumentError for an unknown one."""
    if name not in LAYOUTS:
        named = Parameter("to", name)
        raise ArgumentError(
            f"{named}: expected one of {', '.join(LAYOUTS)}{did_you_mean(name, LAYOUTS)}", parameters=[named]
        )
    module, of_layout = LAYOUTS[name]
    layout: Layout = getattr(importlib.import_module(f"tokenstore.writing.export.{module}"), of_layout)()
    return layout
