"""Arrow's streams of record batches in local files, as the `datasets` library saves them, read by ranges."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenstore.errors import SourceChangedError, SourceError
from tokenstore.sources.arrow_types import READ_ERRORS
from tokenstore.sources.files import LocalFile

__all__ = ["ArrowStream", "open_stream"]

_FILE_MAGIC = b"ARROW1"
_END = b"\xff\xff\xff\xff\0\0\0\0"


@dataclass(frozen=True)
class ArrowStream:
    """A file of record batches, whose places are known."""

    file: LocalFile
    offsets: npt.NDArray[np.int64]
    """The offset of each record batch."""
    starts: npt.NDArray[np.int64]
    """The first row of each record batch, and at the end the number of rows."""
    encoded_schema: bytes

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def schema(self) -> pa.Schema:
        """The columns of the file."""
        return pa.ipc.read_schema(pa.py_buffer(self.encoded_schema))

    def cells(self, name: str, start: int, stop: int) -> Iterator[pa.Array]:
        """Yield the cells of a column in rows [start, stop), batch by batch.

        Raises SourceError for batches that cannot be read, SourceChangedError for a file that was replaced.
        """
        first = int(np.searchsorted(self.starts, start, "right")) - 1
        for batch in range(first, int(np.searchsorted(self.starts, stop))):
            begin, end = int(self.starts[batch]), int(self.starts[batch + 1])
            low, high = max(start - begin, 0), min(stop, end) - begin
            if low < high:
                yield self._column(batch, name, end - begin).slice(low, high - low)

    def _column(self, batch: int, name: str, rows: int) -> pa.Array:
        try:
            key = (self.file, batch, name)
            if getattr(_latest, "key", None) != key:
                with pa.memory_map(self.file.path) as source:
                    source.seek(int(self.offsets[batch]))
                    table = pa.ipc.read_record_batch(_message(source, "record batch"), self.schema)
                column = table.column(self.schema.names.index(name))
                column.validate(full=True)
                if len(column) != rows:
                    raise ValueError(f"expected {rows} rows, found {len(column)}")
                _latest.column, _latest.key = column, key
            self.file.check_unchanged()
            return _latest.column
        except SourceChangedError:
            raise
        except (*READ_ERRORS, EOFError) as error:
            text = " ".join(str(error).split())
            raise SourceError(
                f"{self.file}: column {name!r} of batch {batch} cannot be read: {text}"
            ) from error


_latest = threading.local()
"""The column of a batch that this thread read last: neighbouring ranges share a batch."""


def open_stream(file: LocalFile) -> ArrowStream:
    """List the record batches of a file; raise SourceError for a damaged one, or another form of Arrow."""
    offsets: list[int] = []
    rows: list[int] = []
    try:
        with pa.memory_map(file.path) as source:
            if source.read(len(_FILE_MAGIC)) == _FILE_MAGIC:
                raise SourceError(
                    f"{file}: expected a stream of Arrow, as `save_to_disk` writes it, found Arrow's file "
                    "format; write it as Parquet"
                )
            source.seek(0)
            schema = pa.ipc.read_schema(_message(source, "schema"))
            if any(_has_dictionary(field.type) for field in schema):
                raise SourceError(
                    f"{file}: has columns of dictionaries, which are not read; write it as Parquet"
                )
            "".join(schema.names).encode()  # names that are not UTF-8 raise here
            while not _ends(source):
                offset = source.tell()
                message = _message(source, "record batch")
                offsets.append(offset)
                rows.append(pa.ipc.read_record_batch(message, schema).num_rows)
    except (*READ_ERRORS, EOFError) as error:
        text = " ".join(str(error).split())
        raise SourceError(f"{file}: expected a stream of Arrow: {text}") from error
    starts = np.concatenate(([0], np.cumsum(rows, dtype=np.int64)))
    encoded = schema.serialize().to_pybytes()
    file.check_unchanged()
    return ArrowStream(file, np.array(offsets, np.int64), starts, encoded)


def _message(source: pa.NativeFile, kind: str) -> pa.ipc.Message:
    """Return the next message of a stream; raise ValueError for another kind, which would crash Arrow."""
    offset = source.tell()
    message = pa.ipc.read_message(source)
    if message.type != kind:
        raise ValueError(f"expected a message of the type {kind!r} at byte {offset}, found {message.type!r}")
    return message


def _ends(source: pa.NativeFile) -> bool:
    """Return whether the mark of a stream's end is next, and nothing behind it; move past it if so.

    Raises ValueError for a file that ends without the mark, which may have been cut off between two batches.
    """
    offset, size = source.tell(), source.size()
    if offset == size:
        raise ValueError("cut off: it ends without the mark of a stream's end")
    if source.read(len(_END)) == _END and source.tell() == size:
        return True
    source.seek(offset)
    return False


def _has_dictionary(kind: pa.DataType) -> bool:
    stack = [kind]
    while stack:
        each = stack.pop()
        if pa.types.is_dictionary(each):
            return True
        stack += [each.field(number).type for number in range(each.num_fields)]
    return False
