"""Reading: shards, arrays, splits, opening a store, and views of samples.

`open_store` opens a store. `store.py` is a whole store, `split.py` one split, `array.py` one aligned array,
read by samples (`sample_array.py`) or by chunks (`chunk_array.py`), as its codec allows.
These read bytes from `local_shards.py` (this machine's disk), `shards.py` (its memory) and `fetching.py`
(everything else). `decoded.py` has the values of labels and the like, each decoded once.
`store_files.py` has a store's manifest and metadata. `subset.py` and `views.py` make subsets and
concatenations; `row_numbers.py` has the row numbers of a subset.
May import: `errors`, `machine`, `codecs`, `storage`, `format`; never zarr, pyarrow, torch or numba at import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenstore.doors import lazy_names

if TYPE_CHECKING:
    from tokenstore.reading.array import ArrayReader, Indices, Values, normalised
    from tokenstore.reading.memory import ReusedMemory
    from tokenstore.reading.open_array import array_reader
    from tokenstore.reading.row_numbers import row_bits
    from tokenstore.reading.sample_array import SampleArrayReader
    from tokenstore.reading.split import SplitReader
    from tokenstore.reading.store import TokenStore, open_store
    from tokenstore.reading.store_files import StoreFiles
    from tokenstore.reading.subset import Subset
    from tokenstore.reading.views import Concatenated, Rows, source_indices

__all__ = [
    "ArrayReader",
    "Concatenated",
    "Indices",
    "ReusedMemory",
    "Rows",
    "SampleArrayReader",
    "SplitReader",
    "StoreFiles",
    "Subset",
    "TokenStore",
    "Values",
    "array_reader",
    "normalised",
    "open_store",
    "row_bits",
    "source_indices",
]

_HOMES = {
    "ArrayReader": "array",
    "Concatenated": "views",
    "Indices": "array",
    "ReusedMemory": "memory",
    "Rows": "views",
    "SampleArrayReader": "sample_array",
    "SplitReader": "split",
    "StoreFiles": "store_files",
    "Subset": "subset",
    "TokenStore": "store",
    "Values": "array",
    "array_reader": "open_array",
    "normalised": "array",
    "open_store": "store",
    "row_bits": "row_numbers",
    "source_indices": "views",
}


# Imported on first use, so that who needs one module of this wing does not wait for the others.
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
