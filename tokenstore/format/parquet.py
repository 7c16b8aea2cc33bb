"""The sizes of a Parquet file's pages, read from their headers before anything is decompressed.

Readers of Parquet allocate and inflate what a page's header says, whatever the file's footer says. A page of
64 kB may say 2 GB, and be right. The footer is read here too: pyarrow's own objects for it end the process
where statistics of a column contradict each other. Source: the Parquet format, "Thrift definition"
(`FileMetaData`, `PageHeader`), and Thrift's compact protocol.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["inflated_nbytes"]

_MAGIC = b"PAR1"
_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 12
_INTEGERS = frozenset({4, 5, 6})
_DEEPEST = 16
"""The most structs and lists inside one another; Parquet's footer has eight."""

# fields of the format's structs, by their numbers
_ROW_GROUPS, _COLUMNS, _METADATA = 4, 1, 3
_STORED_NBYTES, _DATA_PAGE, _DICTIONARY_PAGE = 7, 9, 11
_PAGE_INFLATED, _PAGE_STORED = 2, 3


def inflated_nbytes(data: bytes) -> int:
    """Return the bytes of all pages of a Parquet file once they are decompressed.

    Raises ValueError for a footer or headers that are none.
    """
    length = int.from_bytes(data[-8:-4], "little")
    if data[-4:] != _MAGIC or length > len(data) - 8:
        raise ValueError("no footer of a Parquet file")
    footer, _ = _read_struct(data, len(data) - 8 - length, 0)
    total = 0
    for group in _structs(footer.get(_ROW_GROUPS)):
        for column in _structs(group.get(_COLUMNS)):
            total += sum(_page_nbytes(data, column.get(_METADATA)))
    return total


def _structs(value: Any) -> list[dict[int, Any]]:
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise ValueError("a footer without row groups and columns")
    return value


def _page_nbytes(data: bytes, column: Any) -> Iterator[int]:
    """Yield the bytes of each page of a column chunk, decompressed."""
    (metadata,) = _structs([column])
    at, stored = _integer(metadata, _DATA_PAGE), _integer(metadata, _STORED_NBYTES)
    if _DICTIONARY_PAGE in metadata and 0 < _integer(metadata, _DICTIONARY_PAGE) < at:
        at = _integer(metadata, _DICTIONARY_PAGE)
    stop = at + stored
    if not 0 <= at <= stop <= len(data):
        raise ValueError(f"pages at bytes {at} to {stop} of {len(data)}")
    while at < stop:
        header, at = _read_struct(data, at, 0)
        inflated, stored = _integer(header, _PAGE_INFLATED), _integer(header, _PAGE_STORED)
        if inflated < 0 or stored < 0:
            raise ValueError(f"a page of {inflated} bytes, compressed to {stored}")
        yield inflated
        at += stored


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
        head, at = _read_byte(data, at)
        if not head:
            return fields, at
        step, kind = head >> 4, head & 15
        if step:
            number += step
        else:
            number, at = _read_value(data, at, 4, depth)
        if kind in (_TRUE, _FALSE):
            continue
        fields[number], at = _read_value(data, at, kind, depth)


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
    head, at = _read_byte(data, at)
    length, kind = head >> 4, head & 15
    if length == 15:
        length, at = _read_varint(data, at)
    values = []
    for _ in range(length):
        if at >= len(data):
            raise ValueError("a Parquet header that ends too early")
        value, at = _read_value(data, at, kind, depth + 1)
        values.append(value)
    return values, at


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
