"""The check of whole files, many at a time: each is read once, for its digest and for what its bytes mean.

A file passes here or it does not. Of one that does not, the plain checks in `verify.py` and `meaning.py` say
what is wrong.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy.typing as npt

from tokenstore.audit.checked_labels import CheckedLabels
from tokenstore.audit.sound_shards import ShardCheck
from tokenstore.audit.tables import check_table
from tokenstore.errors import StorageError, TokenstoreError
from tokenstore.format import LABELS, ROOT, ArrayLayout, FileRecord, sharding
from tokenstore.machine import available_cores
from tokenstore.reading import StoreFiles
from tokenstore.reading.checked_files import opened_file
from tokenstore.storage import Storage
from tokenstore.storage.regular import read_at, read_into

PIECE_NBYTES = 2**23
"""The bytes of one request for a part of a file."""
_PIECES_AT_ONCE = 4
"""The pieces of a file that are fetched while earlier ones are checked."""
_LOCAL_PIECE_NBYTES = 2**20
"""The bytes of a file of this machine that are read at once: they fit into a processor's cache."""
_LOOKS_AT_ONCE = 8
"""The requests for sizes and metadata that are made at a time, beside those for files."""
_LARGE_AT_ONCE = 4
"""The least number of large files in memory: some are checked while others are fetched."""


class SoundFiles:
    """The files of a store that passed, and the problems of the tables among them.

    `passes` may be called by any number of threads.
    """

    def __init__(self, store: StoreFiles) -> None:
        self._store = store
        self._storage = store.storage
        self._large = threading.BoundedSemaphore(max(_LARGE_AT_ONCE, available_cores()))
        arrays = [f"{split}/{name}" for split in store.splits for name in store.split_arrays(split)]
        self._looks = ThreadPoolExecutor(1 if self._storage.maps_files else _LOOKS_AT_ONCE)
        self._sizes, self._layouts = self._look(arrays)
        self._tables: dict[str, tuple[str, int, int]] = {}
        """The split, the first row and the rows of each file of a samples table, by its path."""
        for split in store.splits:
            start = 0
            with contextlib.suppress(TokenstoreError):
                for path, rows in store.samples_parts(split):
                    self._tables[path] = (split, start, rows)
                    start += rows
        has_names = bool(store.manifest.class_names)
        self._labels = CheckedLabels({path: of[0] for path, of in self._tables.items() if has_names})
        self.shards: dict[str, set[int]] = {array: set() for array in arrays}
        """The numbers of the shards of each array that passed: digest, index, checksums and values."""
        self.table_problems: dict[str, list[str]] = {}
        """The problems of each file of a samples table whose digest is right."""

    def _look(
        self, arrays: Sequence[str]
    ) -> tuple[Future[dict[str, int] | None] | None, dict[str, Future[ArrayLayout]]]:
        """Begin to find out the sizes of the files of a remote place, and the layouts of arrays.

        The check of a file waits for what it needs of them, while others are fetched already.
        """
        is_remote = not self._storage.maps_files
        sizes = self._looks.submit(_listed_sizes, self._storage) if is_remote else None
        layouts = {array: self._looks.submit(self._store.layout, array) for array in arrays}
        self._looks.shutdown(wait=False)
        return sizes, layouts

    def close(self) -> None:
        """Begin no more requests, and wait for those under way."""
        self._looks.shutdown(cancel_futures=True)

    def announced(self, records: Iterable[tuple[str, FileRecord]]) -> Iterator[tuple[str, FileRecord]]:
        """Yield the files, whose checks must begin in this order.

        Then labels are decoded once, for their own check and for that of the names in the samples table.
        """
        for path, record in records:
            # subtle: a large shard may wait for a table to end, so that a table never waits for a large shard
            if path in self._tables or not self._is_large(record):
                self._labels.announce(path)
            yield path, record

    @property
    def sizes(self) -> dict[str, int] | None:
        """The sizes of all files of a remote place by their paths; None where no listing tells them."""
        return None if self._sizes is None else self._sizes.result()

    def passes(self, path: str, record: FileRecord) -> bool:
        """Return whether a file has its digest and, if it is a shard, all that its chunks must have."""
        try:
            with self._large if self._is_large(record) else contextlib.nullcontext():
                return self._passes(path, record)
        finally:
            self._labels.end(path)

    def _is_large(self, record: FileRecord) -> bool:
        """Return whether a file is fetched piece by piece, of which there are few at a time."""
        return record.size > PIECE_NBYTES and not self._storage.maps_files

    def _passes(self, path: str, record: FileRecord) -> bool:
        with contextlib.suppress(TokenstoreError, OSError, ValueError):
            if path.endswith(ROOT) and not self._storage.maps_files:
                self._store.read_checked(path)
                return self._has_size(path, record)
            if path in self._tables:
                return self._passes_table(path, record)
            array, _, rest = path.partition("/c/")
            number = rest.partition("/")[0]
            layout = self._layout(array)
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
                return digest.hexdigest() == record.sha256 and self._has_size(path, record)
        return False

    def _layout(self, array: str) -> ArrayLayout | None:
        looked = self._layouts.get(array)
        with contextlib.suppress(TokenstoreError):
            return None if looked is None else looked.result()
        return None

    def _has_size(self, path: str, record: FileRecord) -> bool:
        """Return whether a remote file has the listed size; a local one that was opened has it."""
        if self._storage.maps_files:
            return True
        sizes = self.sizes
        return (self._storage.size(path) if sizes is None else sizes.get(path)) == record.size

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
            if not self._has_size(path, record):
                return False
            findings = check_table(
                self._store,
                file,
                SAMPLES_SCHEMA,
                rows,
                path,
                (split, start),
                partial(self._labels.for_table, path),
            )
        if findings.uncompared is not None:
            return False
        self.table_problems[path] = findings.problems
        return True

    def _passes_shard(
        self, layout: ArrayLayout, array: str, shard: int, path: str, record: FileRecord
    ) -> bool:
        if record.size < layout.index_nbytes:
            return False
        split, _, name = array.rpartition("/")
        labels = self._labels.of_split(split, layout) if name == LABELS else None
        copy_to = None if labels is None else labels.values
        passed = self._is_sound(layout, array, shard, path, record, copy_to)
        if passed and labels is not None:
            labels.passed.add(shard)
        return passed

    def _is_sound(
        self,
        layout: ArrayLayout,
        array: str,
        shard: int,
        path: str,
        record: FileRecord,
        copy_to: npt.NDArray[Any] | None = None,
    ) -> bool:
        chunks, name = layout.shard_chunks(shard), array.rpartition("/")[2]
        with _pieces(self._storage, path, record.size, layout.index_nbytes) as (tail, pieces):
            index = sharding.decode_index(tail, chunks, record.size, path)
            check = ShardCheck(layout, name, self._store.manifest, shard, index, copy_to)
            digest = hashlib.sha256()
            for piece in pieces:
                digest.update(piece)
                check.take(piece)
        is_whole = check.is_complete and digest.hexdigest() == record.sha256
        return is_whole and self._has_size(path, record)


def _listed_sizes(storage: Storage) -> dict[str, int] | None:
    try:
        return storage.sizes()
    except StorageError:  # a web server does not list its files
        return None


@contextlib.contextmanager
def _pieces(
    storage: Storage, path: str, nbytes: int, tail_nbytes: int
) -> Iterator[tuple[bytes, Iterator[bytes | memoryview]]]:
    """Give the last bytes of a file, and all of its bytes piece by piece, each of which may then change.

    Raises ValueError for a local file of another size, and what storage raises.
    """
    local = storage.open_file(path)
    if local is None:
        with _fetched_pieces(storage, path, nbytes, tail_nbytes) as fetched:
            yield fetched
        return
    descriptor, offset, size = local
    try:
        if size != nbytes:
            raise ValueError(f"expected {nbytes} bytes, found {size}")
        tail = read_at(descriptor, offset + nbytes - tail_nbytes, offset + nbytes)
        yield tail, _local_pieces(descriptor, offset, nbytes)
    finally:
        os.close(descriptor)


def _local_pieces(descriptor: int, offset: int, nbytes: int) -> Iterator[memoryview]:
    """Yield a file's bytes in memory that is used again; raise ValueError where they end too early."""
    room = memoryview(bytearray(min(nbytes, _LOCAL_PIECE_NBYTES)))
    for start in range(0, nbytes, max(1, len(room))):
        piece = room[: nbytes - start]
        if read_into(descriptor, offset + start, piece) < len(piece):
            raise ValueError(f"expected {nbytes} bytes, found fewer")
        yield piece


@contextlib.contextmanager
def _fetched_pieces(
    storage: Storage, path: str, nbytes: int, tail_nbytes: int
) -> Iterator[tuple[bytes, Iterator[bytes]]]:
    """Do the same as `_pieces` for a file that is fetched: the pieces with its last bytes come first."""
    starts = range(0, nbytes, PIECE_NBYTES)
    first = (nbytes - tail_nbytes) // PIECE_NBYTES if tail_nbytes else len(starts)
    in_turn = itertools.chain(starts[first:], starts[:first])  # no list: a damaged manifest may say any size
    ranges = ((path, start, min(start + PIECE_NBYTES, nbytes)) for start in in_turn)
    fetched = storage.ranges_in_turn(ranges, _PIECES_AT_ONCE)
    with contextlib.closing(fetched):
        last = list(itertools.islice(fetched, len(starts) - first))
        tail = (last[0] if len(last) == 1 else b"".join(last))[-tail_nbytes:] if tail_nbytes else b""
        yield tail, itertools.chain(fetched, last)
