"""Format: what a store is, FORMAT.md in code. Knows no files and no network.

`manifest.py` has the manifest (`Manifest`), `store_fields.py` the part of it that is known before the first
shard, `root.py` the root `zarr.json` around it (`encode_root`, `decode_root`). `layout.py` has the paths of a
store and the layout of an array (`ArrayLayout`), `sharding.py` the bytes of a shard, `tables.py` the tables
and columns beside the tokens. `fields.py` reads JSON objects; tokenizers and adapters read theirs with it.

Names are imported on first use, so that whoever needs the manifest does not wait for pyarrow.
May import: `errors`, `machine`, `codecs`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenstore.format.layout import LABELS, MASKS, ROOT, TOKENS, ArrayLayout
    from tokenstore.format.manifest import FORMAT_VERSION, FileRecord, Manifest, SplitSummary
    from tokenstore.format.root import decode_root, encode_json, encode_root
    from tokenstore.format.store_fields import Preprocessing, StoreFields, TokenizerIdentity
    from tokenstore.format.tables import Column, Skip, samples_table

__all__ = [
    "FORMAT_VERSION",
    "LABELS",
    "MASKS",
    "ROOT",
    "TOKENS",
    "ArrayLayout",
    "Column",
    "FileRecord",
    "Manifest",
    "Preprocessing",
    "Skip",
    "SplitSummary",
    "StoreFields",
    "TokenizerIdentity",
    "decode_root",
    "encode_json",
    "encode_root",
    "samples_table",
]

_HOMES = {
    **dict.fromkeys(("LABELS", "MASKS", "ROOT", "TOKENS", "ArrayLayout"), "layout"),
    **dict.fromkeys(("FORMAT_VERSION", "FileRecord", "Manifest", "SplitSummary"), "manifest"),
    **dict.fromkeys(("decode_root", "encode_json", "encode_root"), "root"),
    **dict.fromkeys(("Preprocessing", "StoreFields", "TokenizerIdentity"), "store_fields"),
    **dict.fromkeys(("Column", "Skip", "samples_table"), "tables"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
