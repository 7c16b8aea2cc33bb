"""The images in the cells of a Parquet column, read in small batches, whatever a row group inflates to."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from typing_extensions import override

from tokenstore.errors import SampleError, SourceChangedError, SourceError, StorageError
from tokenstore.parquet_pages import open_parquet
from tokenstore.sources.arrow_types import READ_ERRORS, as_bytes, is_bytes, is_text
from tokenstore.sources.base import PlacedRequest
from tokenstore.sources.files import ExpectingReader, SourceFile

SMALL_NBYTES = 2**26
"""The bytes of a row group that are no bomb, however small its file."""
BATCH_NBYTES = 2**28
"""The bytes of a batch of rows, if each were as large as its row group: few bytes can be many long values. In
files that are not much smaller than what they hold, a batch may be `BATCH_ROWS` times as large."""
BATCH_ROWS = 32
_BUFFER_NBYTES = 2**16
"""The bytes of a remote row group that Arrow reads at a time, from the larger blocks of its file."""
_SLACK_NBYTES = 2**14
"""The bytes that the pages of a row group may take more than its values: packed noise grows a little."""
_LARGE_NBYTES = 2**20
"""The size from which on equal images of one request are kept once."""
LARGEST_INFLATION = 100
"""The factor by which a row group is larger than its file at most: encoded images hardly shrink."""


@dataclass(frozen=True)
class ParquetRequest(PlacedRequest):
    """A request for some rows of one column."""

    pieces: tuple[tuple[SourceFile, int, int, int], ...]
    """The pieces of row groups: (file, row group, first row, last row + 1 in the group)."""
    column: str
    allow_outside_paths: bool = False
    """True to read files that lie outside the Parquet file's folder."""

    @property
    @override
    def is_remote(self) -> bool:
        return any(file.is_remote for file, *_ in self.pieces)

    @property
    @override
    def is_shared(self) -> bool:
        return self.is_remote  # each decode process alone would fetch whole row groups

    @override
    def read(self) -> Sequence[bytes | SampleError]:
        images: list[bytes | SampleError] = []
        large: dict[bytes, bytes] = {}
        for file, group, start, stop in self.pieces:
            try:
                for cells in _rows_of(file).read(group, self.column, start, stop):
                    of_cells = _images(cells, file, self.allow_outside_paths)
                    images += [_once(image, large) for image in of_cells]
                    start += len(cells)
                file.check_unchanged()
            except (StorageError, SourceChangedError):  # no fault of the samples
                _opened.version = None
                raise
            except (*READ_ERRORS, SourceError) as error:
                text = " ".join(str(error).split())
                reason = f"row group {group} of {file} cannot be read: {text}"
                images += [SampleError(reason) for _ in range(start, stop)]
                _opened.version = None  # the stream ends with the error
        return images


def _once(image: bytes | SampleError, large: dict[bytes, bytes]) -> bytes | SampleError:
    """Return the equal image of `large` instead of another copy, if it takes much memory."""
    if isinstance(image, SampleError) or len(image) < _LARGE_NBYTES:
        return image
    return large.setdefault(image, image)


def column_cells(file: SourceFile, group: int, column: str, start: int, stop: int) -> Iterator[pa.Array]:
    """Yield the cells of rows [start, stop) of a row group, a few at a time.

    Raises SourceError for cells that cannot be read or a file that was replaced, and StorageError where
    storage does not answer.
    """
    try:
        yield from _rows_of(file).read(group, column, start, stop)
        file.check_unchanged()
    except StorageError:  # which is an OSError
        _opened.version = None
        raise
    except READ_ERRORS as error:
        _opened.version = None  # the stream ends with the error
        text = " ".join(str(error).split())
        raise SourceError(f"{file}: column {column!r} of row group {group} cannot be read: {text}") from error


_opened = threading.local()
"""The file that this thread read last, as neighbouring requests read the same: `rows` and their `version`."""


def _rows_of(file: SourceFile) -> _Rows:
    """Return the rows of a file, opened anew if it is another file now."""
    version = (file.key, file.nbytes, file.version)
    if getattr(_opened, "version", None) != version:
        _opened.rows = _Rows(file)
        _opened.version = version
    rows: _Rows = _opened.rows
    return rows


class _Rows:
    """The rows of one open Parquet file, which neighbouring requests read on in one stream.

    The last batches of a row group are kept for requests in another order.
    """

    def __init__(self, file: SourceFile) -> None:
        self._nbytes = file.nbytes
        self._source = file.arrow_source()
        # subtle: without a buffer, Arrow reads the whole column of a row group before its first row
        self._file = open_parquet(self._source, buffer_size=_BUFFER_NBYTES if file.is_remote else 0)
        self._at: tuple[int, str] | None = None

    def read(self, group: int, column: str, start: int, stop: int) -> Iterator[pa.Array]:
        """Yield the cells of rows [start, stop) of a row group, in order.

        Raises ValueError for a row group that inflates beyond reason, and whatever Arrow raises.
        """
        if self._at != (group, column):
            self._begin(group, column)
            self._expect(group, start, stop, here=False)
        else:
            self._expect(group, start, stop, here=True)
        while start < stop:
            first, cells = self._batch_of(start)
            part = cells.slice(start - first, min(stop, first + len(cells)) - start)
            yield part
            start += len(part)

    def _expect(self, group: int, start: int, stop: int, *, here: bool) -> None:
        """Have a remote file fetch what is read: the whole row group, or the first rows of it alone."""
        if isinstance(self._source, ExpectingReader):
            about = self._file.metadata.row_group(group)
            share = stop / max(1, about.num_rows) if start == 0 and stop < BATCH_ROWS else 1
            more = _BUFFER_NBYTES if share < 1 else _SLACK_NBYTES
            self._source.expect(round(share * about.total_byte_size) + more, here=here)

    def _begin(self, group: int, column: str) -> None:
        self._at = None
        self._batches: Iterator[pa.RecordBatch] = self._file.iter_batches(
            self._batch_rows(group), row_groups=[group], columns=[column], use_threads=False
        )
        self._at, self._end = (group, column), 0
        self._forget()

    def _forget(self) -> None:
        self._latest: list[pa.Array] = []
        self._starts: list[int] = []
        self._kept_nbytes = 0

    def _batch_of(self, row: int) -> tuple[int, pa.Array]:
        """Return the batch that holds a row, and the number of its first row."""
        place = bisect_right(self._starts, row) - 1
        if place >= 0 and row < self._starts[place] + len(self._latest[place]):
            return self._starts[place], self._latest[place]
        if row < self._end and self._at is not None:
            self._begin(*self._at)
        while True:
            batch = next(self._batches, None)
            if batch is None:
                raise ValueError(f"it ends before row {row}")
            cells, first = batch.column(0), self._end
            if self._kept_nbytes + cells.nbytes > BATCH_NBYTES:
                self._forget()
            self._latest.append(cells)
            self._starts.append(first)
            self._kept_nbytes += cells.nbytes
            self._end += len(cells)
            if row < self._end:
                return first, cells

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


def _images(cells: pa.Array, file: SourceFile, allow_outside: bool) -> list[bytes | SampleError]:
    """Return the image files of cells: bytes, structs of bytes and path, or paths below the file's folder."""
    contents, paths = _parts(cells)
    named = [
        path for content, path in zip(contents, paths, strict=True) if content is None and path is not None
    ]
    beside = iter(file.read_beside(named, allow_outside=allow_outside) if named else ())
    images: list[bytes | SampleError] = []
    for content, path in zip(contents, paths, strict=True):
        if content is not None:
            images.append(content)
        else:
            images.append(SampleError("the image is null") if path is None else next(beside))
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
