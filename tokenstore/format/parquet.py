"""The sizes of a Parquet file's pages, read from their headers before anything is decompressed.

Readers of Parquet allocate and inflate what a page's header says, whatever the file's footer says. A page of
64 kB may say 2 GB, and be right. Source: the Parquet format, "Thrift definition" (`PageHeader`), and Thrift's
compact protocol.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["inflated_nbytes"]

_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 12
_VARINTS = frozenset({4, 5, 6})
_DEEPEST = 8
"""The most structs inside one another: a page's header has two."""


def inflated_nbytes(data: bytes, metadata: Any) -> int:
    """Return the bytes of all pages of a Parquet file once they are decompressed.

    `metadata` is its `pyarrow.parquet.FileMetaData`. Raises ValueError for headers that are none.
    """
    total = 0
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            total += sum(_page_nbytes(data, metadata.row_group(group).column(column)))
    return total


def _page_nbytes(data: bytes, chunk: Any) -> Iterator[int]:
    """Yield the bytes of each page of a column chunk, decompressed."""
    at = chunk.data_page_offset
    if chunk.dictionary_page_offset:
        at = min(at, chunk.dictionary_page_offset)
    stop = at + chunk.total_compressed_size
    if not 0 <= at <= stop <= len(data):
        raise ValueError(f"pages at bytes {at} to {stop} of {len(data)}")
    while at < stop:
        header, at = _Thrift(data, at).page_header()
        inflated, stored = header.get(2, -1), header.get(3, -1)
        if inflated < 0 or stored < 0:
            raise ValueError(f"a page of {inflated} bytes, compressed to {stored}")
        yield inflated
        at += stored


class _Thrift:
    """A position in bytes of Thrift's compact protocol; raises ValueError where they end too early."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self._at = at

    def page_header(self) -> tuple[dict[int, int], int]:
        """Return a struct's integers by their fields' numbers, and the position behind it."""
        return self._struct(0), self._at

    def _struct(self, depth: int) -> dict[int, int]:
        if depth > _DEEPEST:
            raise ValueError("a page's header is too deep")
        numbers: dict[int, int] = {}
        field = 0
        while head := self._byte():
            field = field + (head >> 4) if head >> 4 else self._integer()
            kind = head & 15
            if kind in _VARINTS:
                numbers[field] = self._integer()
            elif kind not in (_TRUE, _FALSE):
                self._skip(kind, depth)
        return numbers

    def _skip(self, kind: int, depth: int) -> None:
        if kind == _STRUCT:
            self._struct(depth + 1)
        elif kind == _BINARY:
            self._advance(self._varint())
        elif kind in (_LIST, _SET):
            head = self._byte()
            length = head >> 4 if head >> 4 < 15 else self._varint()
            for _ in range(length):
                self._skip(head & 15, depth + 1)
        elif kind in _VARINTS:
            self._varint()
        elif kind in (_TRUE, _FALSE, _BYTE):
            self._advance(1)
        elif kind == _DOUBLE:
            self._advance(8)
        else:
            raise ValueError(f"a page's header has a value of kind {kind}")

    def _integer(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("a page's header has an integer that does not end")

    def _byte(self) -> int:
        self._advance(1)
        return self._data[self._at - 1]

    def _advance(self, count: int) -> None:
        self._at += count
        if self._at > len(self._data):
            raise ValueError("a page's header ends too early")
