"""Format: what a store is, FORMAT.md in code. Knows no files and no network.

`manifest.py` has the manifest (`Manifest`), `store_fields.py` the part of it that is known before the first
shard (`history.py` that of operations on stores), `root.py` the root `zarr.json` around it (`encode_root`,
`decode_root`). `layout.py` has the paths of a store and the layout of an array (`ArrayLayout`), and
`agreement.py` compares it with the manifest. `sharding.py` has the bytes of a shard, `shard_manifest.py` the
list of an array's many shards, `symmetries.py` permutations of codes, `tables.py` the tables and columns
beside the tokens, `parquet.py` the sizes of a table's pages. `fields.py` reads JSON objects; tokenizers and
adapters read theirs with it.

Names are imported on first use, so that whoever needs the manifest does not wait for pyarrow.
May import: `errors`, `machine`, `codecs`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenstore.codecs import Column
    from tokenstore.format import fields, sharding
    from tokenstore.format.agreement import (
        check_layout,
        check_shard_nbytes,
        checked_layout,
        has_shard_manifest,
        view_boxes_problem,
    )
    from tokenstore.format.history import Operation
    from tokenstore.format.implicit import IMPLICIT_KINDS, ImplicitCodebook
    from tokenstore.format.layout import (
        CODEBOOK,
        LABELS,
        MASKS,
        ROOT,
        SAMPLES_TABLE,
        SKIPPED_TABLE,
        SYNONYMS,
        TOKENS,
        VIEW_BOXES,
        ArrayLayout,
        code_planes,
        decode_table_array,
        encode_table_array,
        file_record,
        fill_value,
        group_document,
        samples_part,
        table_array_document,
    )
    from tokenstore.format.manifest import (
        DIGITS,
        FORMAT_VERSION,
        NAME,
        SHARD_MANIFESTS,
        TABLE_PARTS,
        VIEWS,
        FileRecord,
        Manifest,
        SplitSummary,
    )
    from tokenstore.format.root import decode_root, encode_json, encode_root
    from tokenstore.format.shard_manifest import (
        ROW_NBYTES,
        SHARD_MANIFEST,
        decode_records,
        encode_records,
        shard_sizes,
    )
    from tokenstore.format.store_fields import (
        ConversionPart,
        Preprocessing,
        StoreFields,
        TokenizerIdentity,
        codebook_problem,
        codebook_sizes,
        part_positions,
        read_store_fields,
    )
    from tokenstore.format.symmetries import (
        FLIP,
        NO_SYMMETRIES,
        SYMMETRIES,
        Symmetries,
        closed_codes,
        symmetries_of_rows,
        symmetries_problem,
        symmetries_table,
        symmetries_within,
        symmetry_axes,
    )
    from tokenstore.format.tables import (
        LABEL_COLUMN,
        SAMPLES_SCHEMA,
        SKIPPED_SCHEMA,
        Skip,
        read_table,
        samples_table,
        table_batches,
    )

__all__ = [
    "CODEBOOK",
    "DIGITS",
    "FLIP",
    "FORMAT_VERSION",
    "IMPLICIT_KINDS",
    "LABELS",
    "LABEL_COLUMN",
    "MASKS",
    "NAME",
    "NO_SYMMETRIES",
    "ROOT",
    "ROW_NBYTES",
    "SAMPLES_SCHEMA",
    "SAMPLES_TABLE",
    "SHARD_MANIFEST",
    "SHARD_MANIFESTS",
    "SKIPPED_SCHEMA",
    "SKIPPED_TABLE",
    "SYMMETRIES",
    "SYNONYMS",
    "TABLE_PARTS",
    "TOKENS",
    "VIEWS",
    "VIEW_BOXES",
    "ArrayLayout",
    "Column",
    "ConversionPart",
    "FileRecord",
    "ImplicitCodebook",
    "Manifest",
    "Operation",
    "Preprocessing",
    "Skip",
    "SplitSummary",
    "StoreFields",
    "Symmetries",
    "TokenizerIdentity",
    "check_layout",
    "check_shard_nbytes",
    "checked_layout",
    "closed_codes",
    "code_planes",
    "codebook_problem",
    "codebook_sizes",
    "decode_records",
    "decode_root",
    "decode_table_array",
    "encode_json",
    "encode_records",
    "encode_root",
    "encode_table_array",
    "fields",
    "file_record",
    "fill_value",
    "group_document",
    "has_shard_manifest",
    "part_positions",
    "read_store_fields",
    "read_table",
    "samples_part",
    "samples_table",
    "shard_sizes",
    "sharding",
    "symmetries_of_rows",
    "symmetries_problem",
    "symmetries_table",
    "symmetries_within",
    "symmetry_axes",
    "table_array_document",
    "table_batches",
    "view_boxes_problem",
]

_HOMES = {
    "CODEBOOK": "layout",
    "FLIP": "symmetries",
    "FORMAT_VERSION": "manifest",
    "LABELS": "layout",
    "LABEL_COLUMN": "tables",
    "MASKS": "layout",
    "NAME": "manifest",
    "NO_SYMMETRIES": "symmetries",
    "ROOT": "layout",
    "ROW_NBYTES": "shard_manifest",
    "SAMPLES_SCHEMA": "tables",
    "SAMPLES_TABLE": "layout",
    "SHARD_MANIFEST": "shard_manifest",
    "SHARD_MANIFESTS": "manifest",
    "SKIPPED_SCHEMA": "tables",
    "SKIPPED_TABLE": "layout",
    "SYMMETRIES": "symmetries",
    "SYNONYMS": "layout",
    "TABLE_PARTS": "manifest",
    "TOKENS": "layout",
    "DIGITS": "manifest",
    "VIEWS": "manifest",
    "VIEW_BOXES": "layout",
    "ArrayLayout": "layout",
    "Column": "tables",
    "ConversionPart": "store_fields",
    "FileRecord": "manifest",
    "Manifest": "manifest",
    "Operation": "history",
    "Preprocessing": "store_fields",
    "Skip": "tables",
    "SplitSummary": "manifest",
    "StoreFields": "store_fields",
    "Symmetries": "symmetries",
    "TokenizerIdentity": "store_fields",
    "check_layout": "agreement",
    "IMPLICIT_KINDS": "implicit",
    "ImplicitCodebook": "implicit",
    "check_shard_nbytes": "agreement",
    "checked_layout": "agreement",
    "closed_codes": "symmetries",
    "code_planes": "layout",
    "codebook_problem": "store_fields",
    "codebook_sizes": "store_fields",
    "decode_records": "shard_manifest",
    "decode_root": "root",
    "decode_table_array": "layout",
    "encode_json": "root",
    "encode_records": "shard_manifest",
    "encode_root": "root",
    "encode_table_array": "layout",
    "file_record": "layout",
    "fill_value": "layout",
    "group_document": "layout",
    "has_shard_manifest": "agreement",
    "part_positions": "store_fields",
    "read_store_fields": "store_fields",
    "read_table": "tables",
    "samples_part": "layout",
    "samples_table": "tables",
    "shard_sizes": "shard_manifest",
    "symmetries_of_rows": "symmetries",
    "symmetries_problem": "symmetries",
    "symmetries_table": "symmetries",
    "symmetries_within": "symmetries",
    "symmetry_axes": "symmetries",
    "table_array_document": "layout",
    "table_batches": "tables",
    "view_boxes_problem": "agreement",
}
_MODULES = frozenset({"fields", "sharding"})


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
