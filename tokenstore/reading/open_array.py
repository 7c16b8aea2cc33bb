"""The opening of one aligned array of a store: the reader that fits its codec."""

from __future__ import annotations

from tokenstore.reading.array import ArrayReader
from tokenstore.reading.chunk_array import ChunkArrayReader
from tokenstore.reading.marked_array import MarkedArrayReader
from tokenstore.reading.sample_array import SampleArrayReader
from tokenstore.reading.shards import ArrayFiles
from tokenstore.reading.store_files import StoreFiles

__all__ = ["array_reader"]


def array_reader(store: StoreFiles, name: str) -> ArrayReader:
    """Return a reader of an aligned array such as `train/tokens`, by what the array's codec can do.

    Raises ManifestError and DamageError where the array's metadata is bad.
    """
    files = ArrayFiles(store, name)
    codec = files.layout.codec.samples
    if codec is None:
        return ChunkArrayReader(files)
    return (SampleArrayReader if codec.marked is None else MarkedArrayReader)(files, codec)
