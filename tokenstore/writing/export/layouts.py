"""The table of all layouts that a store can be exported to, by name."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from tokenstore.errors import ArgumentError, Parameter, did_you_mean

if TYPE_CHECKING:
    from tokenstore.writing.export.base import Layout

__all__ = ["LAYOUTS", "layout_named"]

LAYOUTS = {
    "npy": ("npy", "Npy", "train.npy, train-labels.npy: an array a column; class_names.npy"),
    "npz": ("npz", "Npz", "train.npz: tokens, labels, further columns, class_names"),
    "memmap": ("memmap", "Memmap", "train.bin, train-labels.bin for np.memmap, metadata.json"),
    "safetensors": ("safetensors_files", "SafetensorsFiles", "train.safetensors: tensors tokens, labels ..."),
    "jsonl": ("json_lines", "JsonLines", 'train.jsonl: {"class_id": 207, "tokens": [...]} a line'),
    "parquet": ("parquet", "ParquetFiles", "data/train-00000-of-00004.parquet, as on the Hub"),
    "hf": ("hugging_face", "HuggingFace", "train/data-00000-of-00004.arrow, for load_from_disk"),
    "webdataset": ("webdataset", "WebDataset", "train-000000.tar: KEY.tokens.npy, KEY.cls, KEY.json"),
    "llamagen": ("llamagen", "LlamaGen", "imagenet256_codes/0.npy, imagenet256_labels/0.npy"),
}
"""The module and the class of every layout, imported on first use, and its files in a few words."""


def layout_named(name: str) -> Layout:
    """Return the layout of a name; raise ArgumentError for an unknown one."""
    if name not in LAYOUTS:
        named = Parameter("to", name)
        raise ArgumentError(
            f"{named}: expected one of {', '.join(LAYOUTS)}{did_you_mean(name, LAYOUTS)}", parameters=[named]
        )
    module, of_layout, _ = LAYOUTS[name]
    layout: Layout = getattr(importlib.import_module(f"tokenstore.writing.export.{module}"), of_layout)()
    return layout
