"""The images in the cells of a Parquet column, read in small batches, whatever a row group inflates to."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from typing_extensions import override

from tokenstore.errors import SampleError
from tokenstore.sources.arrow_types import READ_ERRORS, as_bytes, is_bytes, is_text
from tokenstore.sources.base import ImageRequest
from tokenstore.sources.file_bytes import read_file_below

SMALL_NBYTES = 2**26
"""The bytes of a row group that are no bomb, however small its file."""
BATCH_NBYTES = 2**28
"""The bytes of a batch of rows, if each were as large as its row group: few bytes can be many long values. In
files that are not much smaller than what they hold, a batch may be `BATCH_ROWS` times as large."""
BATCH_ROWS = 32
_LARGE_NBYTES = 2**20
"""The size from which on equal images of one request are kept once."""
LARGEST_INFLATION = 100
"""The factor by which a row group is larger than its file at most: encoded images hardly shrink."""


@dataclass(frozen=True)
class ParquetRequest(ImageRequest):
    """A request for some rows of one column."""

    pieces: tuple[tuple[str, int, int, int], ...]
    """The pieces of row groups: (path, row group, first row, last row + 1 in the group)."""
    column: str
    allow_outside_paths: bool = False
    """True to read files that lie outside the Parquet file's folder."""

    @override
    def read(self) -> Sequence[bytes | SampleError]:
        images: list[bytes | SampleError] = []
        large: dict[bytes, bytes] = {}
        for path, group, start, stop in self.pieces:
            try:
                for cells in _rows_of(path).read(group, self.column, start, stop):
                    found = _images(cells, os.fsencode(Path(path).parent), self.allow_outside_paths)
                    images += [_kept_once(image, large) for image in found]
                    start += len(cells)
            except READ_ERRORS as error:
                text = " ".join(str(error).split())
                reason = f"row group {group} of {path} cannot be read: {text}"
                images += [SampleError(reason) for _ in range(start, stop)]
                _open_rows.cache_clear()  # the stream ends with the error
        return images


def _kept_once(image: bytes | SampleError, large: dict[bytes, bytes]) -> bytes | SampleError:
    """Return the equal image of `large` instead of another copy, if it takes much memory."""
    if isinstance(image, SampleError) or len(image) < _LARGE_NBYTES:
        return image
    return large.setdefault(image, image)


def _rows_of(path: str) -> _Rows:
    status = Path(path).stat()
    return _open_rows(path, (status.st_ino, status.st_size, status.st_mtime_ns))


@lru_cache(maxsize=1)
def _open_rows(path: str, version: tuple[int, int, int]) -> _Rows:
    """Open a file; the last one is cached, as neighbouring requests read the same."""
    return _Rows(path)


class _Rows:
    """The rows of one open Parquet file, which neighbouring requests read on in one stream."""

    def __init__(self, path: str) -> None:
        self._nbytes = Path(path).stat().st_size
        self._file = pq.ParquetFile(path)
        self._at: tuple[int, str] | None = None
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._cells: pa.Array = pa.array([])
        self._start = 0
        """The first row of the batch `_cells` in the row group."""

    def read(self, group: int, column: str, start: int, stop: int) -> Iterator[pa.Array]:
        """Yield the cells of rows [start, stop) of a row group, in order.

        Raises SampleError for a column that inflates beyond reason, and whatever Arrow raises.
        """
        if self._at != (group, column) or start < self._start:
            self._batches = self._file.iter_batches(
                self._batch_rows(group), row_groups=[group], columns=[column], use_threads=False
            )
            self._at, self._start, self._cells = (group, column), 0, pa.array([])
        while start < stop:
            end = self._start + len(self._cells)
            if start < end:
                part = self._cells.slice(start - self._start, min(stop, end) - start)
                yield part
                start += len(part)
                continue
            batch = next(self._batches, None)
            if batch is None:
                raise ValueError(f"it ends before row {start}")
            self._cells, self._start = batch.column(0), end

    def _batch_rows(self, group: int) -> int:
        # subtle: the metadata of single columns would be more exact, but pyarrow aborts on damaged ones
        inflated = int(self._file.metadata.row_group(group).total_byte_size)
        if inflated > SMALL_NBYTES and inflated > LARGEST_INFLATION * self._nbytes:
            raise ValueError(
                f"its {inflated:,} bytes are too many for a file of {self._nbytes:,}; write the file anew "
                "without compression if they are right"
            )
        honest = inflated <= 2 * self._nbytes
        nbytes = BATCH_NBYTES * (BATCH_ROWS if honest else 1)
        return max(1, min(BATCH_ROWS, nbytes // max(1, inflated)))


def _images(cells: pa.Array, folder: bytes, allow_outside: bool) -> list[bytes | SampleError]:
    """Return the image files of cells: bytes, structs of bytes and path, or paths below the folder."""
    contents, paths = _parts(cells)
    images: list[bytes | SampleError] = []
    for content, path in zip(contents, paths, strict=True):
        if content is not None:
            images.append(content)
        elif path is not None:
            images.append(read_file_below(folder, path, allow_outside=allow_outside))
        else:
            images.append(SampleError("the image is null"))
    return images


def _parts(cells: pa.Array) -> tuple[list[bytes | None], list[bytes | None]]:
    """Return the bytes and the paths of cells, None where a cell has none."""
    nothing: list[bytes | None] = [None] * len(cells)
    if pa.types.is_struct(cells.type):
        names = [field.name for field in cells.type]
        parts = [pc.struct_field(cells, name) if name in names else None for name in ("bytes", "path")]
        contents, paths = (
            nothing if part is None or not holds(part.type) else as_bytes(part)
            for part, holds in zip(parts, (is_bytes, is_text), strict=True)
        )
        return contents, paths
    if is_text(cells.type):
        return nothing, as_bytes(cells)
    return as_bytes(cells), nothing
