"""The sizes of a Parquet file's pages, read from their headers before anything is decompressed.

Readers of Parquet allocate and inflate what a page's header says, whatever the file's footer says. A page of
64 kB may say 2 GB, and be right. The footer is read here too: pyarrow's own objects for it end the process
where statistics of a column contradict each other. Source: the Parquet format, "Thrift definition"
(`FileMetaData`, `PageHeader`), and Thrift's compact protocol.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

__all__ = ["SeekableFile", "column_pages", "inflated_nbytes", "open_parquet"]

_MAGIC = b"PAR1"
_TAIL_NBYTES = 2**16
"""The bytes at the end of a file that are read for its footer, as many as Arrow reads."""
_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 12
_INTEGERS = frozenset({4, 5, 6})
_DEEPEST = 16
"""The most structs and lists inside one another; Parquet's footer has eight."""

_HEADER_ROOM = (2**9, 2**16, 2**24)
"""The bytes in which a page's header is looked for, one after another."""

# fields of the format's structs, by their numbers
_ROW_GROUPS, _COLUMNS, _METADATA = 4, 1, 3
_STORED_NBYTES, _DATA_PAGE, _DICTIONARY_PAGE = 7, 9, 11
_PAGE_INFLATED, _PAGE_STORED = 2, 3


class SeekableFile(Protocol):
    """An open file."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Move to an offset in bytes, and return the position."""

    def read(self, size: int, /) -> bytes:
        """Return the next `size` bytes; fewer at the end of the file."""


def open_parquet(file: Any, **settings: Any) -> ParquetFile:
    """Open a Parquet file, by its path or as an open file, with `settings` of pyarrow.parquet.ParquetFile.

    An open file is read in the thread that asks for rows. Arrow's own threads, which read ahead by default,
    could hold Python's bytes when the interpreter ends, and that aborts the process.
    """
    import pyarrow.parquet as pq  # most of this module needs no Arrow

    return pq.ParquetFile(file, pre_buffer=isinstance(file, str | os.PathLike), **settings)


def inflated_nbytes(file: SeekableFile) -> int:
    """Return the bytes of all pages of a Parquet file once they are decompressed.

    Only the footer and the headers of pages are read, one row group's at a time. Raises ValueError for a
    footer or headers that are none, and for columns that overlap.
    """
    size, footer = _footer(file)
    total, walked = 0, 0
    for group in _row_groups(footer):
        for column in _structs(group.get(_COLUMNS)):
            start, stop = _chunk(size, column)
            walked += stop - start
            if walked > size:  # or a few pages could be walked once for each of many columns
                raise ValueError("columns that overlap")
            total += sum(inflated for inflated, _ in _pages(file, size, start, stop))
    return total


def column_pages(file: SeekableFile, column: int) -> Iterator[Iterator[tuple[int, int]]]:
    """Yield the pages of one column for each row group: their bytes decompressed, and as they are stored.

    `column` is the number of a leaf of the schema. Raises ValueError like `inflated_nbytes`, for this column
    alone.
    """
    size, footer = _footer(file)
    walked = 0
    for group in _row_groups(footer):
        columns = _structs(group.get(_COLUMNS))
        if column >= len(columns):
            raise ValueError(f"a row group of {len(columns)} columns")
        start, stop = _chunk(size, columns[column])
        walked += stop - start
        if walked > size:
            raise ValueError("columns that overlap")
        yield _pages(file, size, start, stop)


def _footer(file: SeekableFile) -> tuple[int, bytes]:
    """Return the size of a file, and its footer."""
    size = file.seek(0, os.SEEK_END)
    tail = _bytes_at(file, max(0, size - _TAIL_NBYTES), size)
    length = int.from_bytes(tail[-8:-4], "little")
    if tail[-4:] != _MAGIC or length > size - 8:
        raise ValueError("no footer of a Parquet file")
    if length + 8 <= len(tail):
        return size, tail[len(tail) - 8 - length : -8]
    return size, _bytes_at(file, size - 8 - length, size - 8)


def _bytes_at(file: SeekableFile, start: int, stop: int) -> bytes:
    file.seek(start)
    return file.read(stop - start)


def _row_groups(footer: bytes) -> Iterator[dict[int, Any]]:
    """Yield the row groups of a footer one at a time: a hundred thousand would take gigabytes."""
    number = at = 0
    is_missing = True
    while True:
        number, kind, at = _read_field(footer, at, number)
        if not kind:
            break
        if number == _ROW_GROUPS and kind == _LIST:
            is_missing = False
            length, element, at = _read_list_head(footer, at)
            for _ in range(length):
                value, at = _read_value(footer, at, element, 1)
                yield _structs([value])[0]
        elif kind not in (_TRUE, _FALSE):
            _, at = _read_value(footer, at, kind, 0)
    if is_missing:
        raise ValueError("a footer without row groups and columns")


def _structs(value: Any) -> list[dict[int, Any]]:
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise ValueError("a footer without row groups and columns")
    return value


def _chunk(size: int, column: dict[int, Any]) -> tuple[int, int]:
    """Return the first byte of a column chunk, and the byte after its last, in a file of that size."""
    (metadata,) = _structs([column.get(_METADATA)])
    at, stored = _integer(metadata, _DATA_PAGE), _integer(metadata, _STORED_NBYTES)
    if _DICTIONARY_PAGE in metadata and 0 < _integer(metadata, _DICTIONARY_PAGE) < at:
        at = _integer(metadata, _DICTIONARY_PAGE)
    stop = at + stored
    if not 0 <= at <= stop <= size:
        raise ValueError(f"pages at bytes {at} to {stop} of {size}")
    return at, stop


def _pages(file: SeekableFile, size: int, at: int, stop: int) -> Iterator[tuple[int, int]]:
    """Yield the bytes of each page of a column chunk, decompressed and as they are stored."""
    while at < stop:
        header, nbytes = _read_page_header(file, at, size)
        inflated, stored = _integer(header, _PAGE_INFLATED), _integer(header, _PAGE_STORED)
        if inflated < 0 or stored < 0:
            raise ValueError(f"a page of {inflated} bytes, compressed to {stored}")
        yield inflated, stored
        at += nbytes + stored


def _read_page_header(file: SeekableFile, at: int, size: int) -> tuple[dict[int, Any], int]:
    """Return the fields of the page header at a place, and its bytes; few are read if few suffice."""
    for room in _HEADER_ROOM[:-1]:
        with contextlib.suppress(ValueError):
            return _read_struct(_bytes_at(file, at, min(at + room, size)), 0, 0)
    return _read_struct(_bytes_at(file, at, min(at + _HEADER_ROOM[-1], size)), 0, 0)


def _integer(fields: dict[int, Any], number: int) -> int:
    value = fields.get(number)
    if type(value) is not int:
        raise ValueError(f"expected an integer in field {number} of a Parquet header")
    return value


def _read_struct(data: bytes, at: int, depth: int) -> tuple[dict[int, Any], int]:
    """Return the fields of a struct by their numbers, and the position behind it; texts and floats are None.

    Raises ValueError where the bytes end too early or are no struct.
    """
    fields: dict[int, Any] = {}
    number = 0
    while True:
        number, kind, at = _read_field(data, at, number)
        if not kind:
            return fields, at
        if kind in (_TRUE, _FALSE):
            continue
        fields[number], at = _read_value(data, at, kind, depth)


def _read_field(data: bytes, at: int, number: int) -> tuple[int, int, int]:
    """Return the number of the field after field `number`, its kind (0 at a struct's end), and its place."""
    head, at = _read_byte(data, at)
    step, kind = head >> 4, head & 15
    if not head:
        return number, 0, at
    if step:
        return number + step, kind, at
    number, at = _read_value(data, at, 4, 0)
    return number, kind, at


def _read_value(data: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in _INTEGERS:
        value, at = _read_varint(data, at)
        return value >> 1 ^ -(value & 1), at
    if kind == _BINARY:
        length, at = _read_varint(data, at)
        return None, at + length
    if kind == _STRUCT:
        if depth == _DEEPEST:
            raise ValueError("a Parquet header that is too deep")
        return _read_struct(data, at, depth + 1)
    if kind in (_LIST, _SET):
        return _read_list(data, at, depth)
    if kind in (_TRUE, _FALSE, _BYTE):
        return None, at + 1
    if kind == _DOUBLE:
        return None, at + 8
    raise ValueError(f"a Parquet header with a value of kind {kind}")


def _read_list(data: bytes, at: int, depth: int) -> tuple[list[Any], int]:
    if depth == _DEEPEST:
        raise ValueError("a Parquet header that is too deep")
    length, kind, at = _read_list_head(data, at)
    values = []
    for _ in range(length):
        if at >= len(data):
            raise ValueError("a Parquet header that ends too early")
        value, at = _read_value(data, at, kind, depth + 1)
        values.append(value)
    return values, at


def _read_list_head(data: bytes, at: int) -> tuple[int, int, int]:
    """Return the length of a list, the kind of its elements, and the place of the first."""
    head, at = _read_byte(data, at)
    length, kind = head >> 4, head & 15
    if length == 15:
        length, at = _read_varint(data, at)
    return length, kind, at


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value, at = _read_byte(data, at)
    if value < 128:
        return value, at
    value &= 127
    for shift in range(7, 70, 7):
        byte, at = _read_byte(data, at)
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("a Parquet header with an integer that does not end")


def _read_byte(data: bytes, at: int) -> tuple[int, int]:
    if at >= len(data):
        raise ValueError("a Parquet header that ends too early")
    return data[at], at + 1
