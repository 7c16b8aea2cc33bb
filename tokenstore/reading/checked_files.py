"""A store's tables, opened for reading once their digest is checked, in memory that stays flat."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from tokenstore.errors import DamageError
from tokenstore.format import FileRecord
from tokenstore.reading.store_files import StoreFiles
from tokenstore.storage import Storage
from tokenstore.storage.base import too_long
from tokenstore.storage.regular import PositionedFile

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["checked_file", "opened_file", "samples_batches"]

_IN_MEMORY_NBYTES = 2**24
"""The bytes of a fetched file up to which it stays in memory instead of a temporary file."""
_PIECE_NBYTES = 2**23
"""The bytes of one request for a part of a whole file."""
_PIECES_AT_ONCE = 5


def samples_batches(store: StoreFiles, split: str, start: int = 0) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a split's samples table from row `start` on, as record batches.

    A file's digest is checked before the first of its rows. Raises DamageError and StoreChangedError.
    """
    from tokenstore.format import SAMPLES_SCHEMA, table_batches  # imports pyarrow

    for path, rows in store.samples_parts(split):
        if start < rows or not rows:
            with checked_file(store, path) as file:
                yield from table_batches(file, SAMPLES_SCHEMA, rows, f"{store.storage}/{path}", start)
        start = max(0, start - rows)


@contextlib.contextmanager
def checked_file(store: StoreFiles, path: str) -> Iterator[BinaryIO]:
    """Open a file of the store whose digest is right; what was fetched is in a temporary file.

    Raises DamageError and StoreChangedError.
    """
    expected = store.table_record(path)
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(opened_file(store.storage, path, expected.size))
        except FileNotFoundError as error:
            store.rule_out_change()
            raise DamageError(
                f"{store.storage}/{path}: the file is missing. Restore it from a copy"
            ) from error
        except DamageError:
            store.rule_out_change()
            raise
        size = file.seek(0, os.SEEK_END)
        if size > expected.size:
            store.rule_out_change()
            raise too_long(f"{store.storage}/{path}", expected.size, size)
        file.seek(0)
        sha256 = hashlib.file_digest(cast("Any", file), "sha256").hexdigest()
        store.check_record(path, FileRecord(size, sha256))
        file.seek(0)
        yield file


@contextlib.contextmanager
def opened_file(storage: Storage, path: str, nbytes: int) -> Iterator[BinaryIO]:
    """Open a file for reading: itself, or what is fetched of `nbytes` of it; raises what storage raises."""
    local = storage.open_file(path)
    if local is not None:
        descriptor, offset, size = local
        try:
            yield cast("BinaryIO", PositionedFile(descriptor, offset, size))
        finally:
            os.close(descriptor)
        return
    with tempfile.SpooledTemporaryFile(_IN_MEMORY_NBYTES) as file:
        for block in _fetched_blocks(storage, path, nbytes):
            file.write(block)
        yield cast("BinaryIO", file)


def _fetched_blocks(storage: Storage, path: str, nbytes: int) -> Iterator[bytes]:
    """Yield the first `nbytes` of a file, a few requests at a time; raises what storage raises."""
    starts = range(0, nbytes, _PIECE_NBYTES)
    ranges = ((path, start, min(start + _PIECE_NBYTES, nbytes)) for start in starts)
    with contextlib.closing(storage.ranges_in_turn(ranges, _PIECES_AT_ONCE)) as pieces:
        yield from pieces
