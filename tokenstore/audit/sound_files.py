"""The check of whole files, many at a time: each is read once, for its digest and for what its bytes mean.

A file passes here or it does not. Of one that does not, the plain checks in `verify.py` and `meaning.py` say
what is wrong.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from tokenstore.audit.meaning import value_out_of_range
from tokenstore.audit.tables import check_table
from tokenstore.errors import StorageError, TokenstoreError
from tokenstore.format import ROOT, TOKENS, ArrayLayout, FileRecord, sharding
from tokenstore.machine import available_cores
from tokenstore.reading import StoreFiles
from tokenstore.reading.checked_files import fetched_blocks, opened_file
from tokenstore.storage import Storage
from tokenstore.storage.regular import read_at

PIECE_NBYTES = 2**23
"""The bytes of a file of this machine that are read at once."""
_WHOLE_NBYTES = 5 * PIECE_NBYTES
"""The largest file that is fetched in one go; of a larger one, the index is fetched first."""
_LARGE_AT_ONCE = 4
"""The least number of large files in memory: some are checked while others are fetched."""
_VALUES_NBYTES = 2**20
"""The bytes of values that are decoded before they are looked at."""


class SoundFiles:
    """The files of a store that passed, and the problems of the tables among them.

    `passes` may be called by any number of threads.
    """

    def __init__(self, store: StoreFiles) -> None:
        self._store = store
        self._storage = store.storage
        self.sizes = None if store.storage.maps_files else _listed_sizes(store.storage)
        """The sizes of all files of a remote place by their paths; None where no listing tells them."""
        self._large = threading.BoundedSemaphore(max(_LARGE_AT_ONCE, available_cores()))
        self._layouts: dict[str, ArrayLayout] = {}
        self._tables: dict[str, tuple[str, int, int]] = {}
        """The split, the first row and the rows of each file of a samples table, by its path."""
        for split in store.splits:
            for name in store.split_arrays(split):
                with contextlib.suppress(TokenstoreError):
                    self._layouts[f"{split}/{name}"] = store.layout(f"{split}/{name}")
            start = 0
            with contextlib.suppress(TokenstoreError):
                for path, rows in store.samples_parts(split):
                    self._tables[path] = (split, start, rows)
                    start += rows
        self.shards: dict[str, set[int]] = {array: set() for array in self._layouts}
        """The numbers of the shards of each array that passed: digest, index, checksums and values."""
        self.table_problems: dict[str, list[str]] = {}
        """The problems of each file of a samples table whose digest is right."""

    def passes(self, path: str, record: FileRecord) -> bool:
        """Return whether a file has its digest and, if it is a shard, all that its chunks must have."""
        if self._storage.maps_files or record.size <= PIECE_NBYTES:
            return self._passes(path, record)
        with self._large:
            return self._passes(path, record)

    def _passes(self, path: str, record: FileRecord) -> bool:
        with contextlib.suppress(TokenstoreError, OSError, ValueError):
            if not self._storage.maps_files and self._size(path) != record.size:
                return False
            if path.endswith(ROOT) and not self._storage.maps_files:
                self._store.read_checked(path)
                return True
            if path in self._tables:
                return self._passes_table(path, record)
            array, _, rest = path.partition("/c/")
            number = rest.partition("/")[0]
            layout = self._layouts.get(array)
            if layout is not None and number.isdecimal() and int(number) < layout.shards:
                shard = int(number)
                if path == f"{array}/{layout.shard_file(shard)}":
                    if self._passes_shard(layout, array, shard, path, record):
                        self.shards[array].add(shard)
                        return True
                    return False
            with _pieces(self._storage, path, record.size, 0) as (_, pieces):
                digest = hashlib.sha256()
                for piece in pieces:
                    digest.update(piece)
                return digest.hexdigest() == record.sha256
        return False

    def _size(self, path: str) -> int | None:
        return self._storage.size(path) if self.sizes is None else self.sizes.get(path)

    def _passes_table(self, path: str, record: FileRecord) -> bool:
        from tokenstore.format import SAMPLES_SCHEMA  # imports pyarrow

        split, start, rows = self._tables[path]
        self._store.table_record(path)
        with opened_file(self._storage, path, record.size) as file:
            if file.seek(0, os.SEEK_END) != record.size:
                return False
            file.seek(0)
            opened: Any = file
            if hashlib.file_digest(opened, "sha256").hexdigest() != record.sha256:
                return False
            findings = check_table(self._store, file, SAMPLES_SCHEMA, rows, path, (split, start))
        if findings.uncompared is not None:
            return False
        self.table_problems[path] = findings.problems
        return True

    def _passes_shard(
        self, layout: ArrayLayout, array: str, shard: int, path: str, record: FileRecord
    ) -> bool:
        if record.size < layout.index_nbytes:
            return False
        chunks = layout.shard_chunks(shard)
        with _pieces(self._storage, path, record.size, layout.index_nbytes) as (tail, pieces):
            stops = sharding.decode_index(tail, chunks, record.size, path).sum(axis=1).astype(np.int64)
            digest, left, begin, chunk = hashlib.sha256(), b"", 0, 0
            for piece in pieces:
                digest.update(piece)
                data = left + piece if left else piece
                stop = int(np.searchsorted(stops, begin + len(data), side="right"))
                spans = np.concatenate([[begin], stops[chunk:stop]]) - begin
                if not self._right_values(layout, array, shard, chunk, data, spans):
                    return False
                left, begin, chunk = data[int(spans[-1]) :], begin + int(spans[-1]), stop
            return chunk == chunks and digest.hexdigest() == record.sha256

    def _right_values(
        self, layout: ArrayLayout, array: str, shard: int, first: int, data: bytes, spans: Any
    ) -> bool:
        """Return whether the chunks of a shard from `first` on, between `spans` of bytes, are right.

        Raises CodecError for a chunk that is not.
        """
        manifest, name = self._store.manifest, array.rpartition("/")[2]
        stored, first = np.frombuffer(data, np.uint8), first + shard * layout.chunks_per_shard
        step = max(1, _VALUES_NBYTES // layout.chunk_nbytes)
        for start in range(0, len(spans) - 1, step):
            stop = min(start + step, len(spans) - 1)
            begin = layout.chunk_span(first + start)[0]
            values = np.empty(
                (layout.chunk_span(first + stop - 1)[1] - begin, *layout.sample_shape), layout.dtype
            )
            for chunk in range(start, stop):
                payload = sharding.checked_payload(stored[spans[chunk] : spans[chunk + 1]])
                layout.check_payload(first + chunk, payload)
                row, end = layout.chunk_span(first + chunk)
                layout.codec.decode(payload, values[row - begin : end - begin])
            if name == TOKENS and int(values.max()) >= manifest.codebook_size:
                return False
            if value_out_of_range(values, name, manifest) is not None:
                return False
        return True


def _listed_sizes(storage: Storage) -> dict[str, int] | None:
    try:
        return storage.sizes()
    except StorageError:  # a web server does not list its files
        return None


@contextlib.contextmanager
def _pieces(
    storage: Storage, path: str, nbytes: int, tail_nbytes: int
) -> Iterator[tuple[bytes, Iterator[bytes]]]:
    """Give the last bytes of a file, and all of its bytes piece by piece.

    Raises ValueError for a local file of another size, and what storage raises.
    """
    local = storage.open_file(path)
    if local is not None:
        descriptor, offset, size = local
        try:
            if size != nbytes:
                raise ValueError(f"expected {nbytes} bytes, found {size}")
            end = offset + nbytes
            starts = range(offset, end, PIECE_NBYTES)
            yield (
                read_at(descriptor, end - tail_nbytes, end),
                (read_at(descriptor, start, min(start + PIECE_NBYTES, end)) for start in starts),
            )
        finally:
            os.close(descriptor)
    elif nbytes <= _WHOLE_NBYTES:
        whole = list(fetched_blocks(storage, path, nbytes))
        tail = b"".join(whole[-2:])[-tail_nbytes:] if tail_nbytes else b""
        yield tail, iter(whole)
    else:
        tail = storage.read_range(path, nbytes - tail_nbytes, nbytes) if tail_nbytes else b""
        yield tail, fetched_blocks(storage, path, nbytes)
