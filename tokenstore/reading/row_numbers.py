"""The row numbers of a subset: a list of them, or a bit for each row of what the subset is taken from.

A bit a row is for subsets of many rows in ascending order, such as the two parts of a split at random: they
take 1.5 bits a row, and the compiled loop in `row_kernels.py` finds the members of a batch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from functools import cached_property
from types import ModuleType
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from tokenstore.machine import importing_kernels

__all__ = ["Member", "RowBits", "RowList", "RowNumbers", "row_bits", "row_list", "rows_where"]

Indices: TypeAlias = npt.NDArray[np.int64]
Member: TypeAlias = Callable[[Indices], npt.NDArray[np.bool_]]
"""A function that says of consecutive positions (m,) which belong to a subset: (m,) bool."""

MOST_LISTED = 2**25
"""The most rows whose ascending subsets are listed, which takes 8 bytes for each of their rows."""
BLOCK = 2**16
"""The rows that are looked at together."""
_WORD = 64
_MEMBERS = np.array([number.bit_count() for number in range(256)], np.uint8)
"""The number of bits in each byte."""


class RowNumbers(Protocol):
    """The row numbers (N,) of a subset, in its order."""

    def __len__(self) -> int: ...

    def at(self, positions: Indices) -> Indices:
        """Return the row numbers (m,) at positions (m,) in [0, N)."""

    def blocks(self) -> Iterator[Indices]:
        """Yield all row numbers in order, some at a time."""

    @property
    def ascends(self) -> bool:
        """True if no row number is less than the one before it."""

    def before(self, rows: Indices) -> Indices:
        """Return how many row numbers are less than each of some rows (m,); they ascend."""

    def listed(self) -> Indices:
        """Return all row numbers (N,) int64."""

    def where(self, is_member: Member, rows: int) -> RowNumbers:
        """Return the row numbers, all in [0, rows), at the positions that a function tells, in order."""


class RowList(RowNumbers):
    """Row numbers (N,) as they are listed, int64 or uint32."""

    def __init__(self, rows: npt.NDArray[np.integer]) -> None:
        self._rows = rows

    @override
    def __len__(self) -> int:
        return len(self._rows)

    @override
    def at(self, positions: Indices) -> Indices:
        return self._rows[positions].astype(np.int64, copy=False)

    @override
    def blocks(self) -> Iterator[Indices]:
        for start in range(0, len(self._rows), BLOCK):
            yield self._rows[start : start + BLOCK].astype(np.int64)

    @cached_property
    @override
    def ascends(self) -> bool:
        starts = range(0, len(self._rows), BLOCK)
        overlapping = (self._rows[start : start + BLOCK + 1] for start in starts)
        return all(bool((block[1:] >= block[:-1]).all()) for block in overlapping)

    @override
    def before(self, rows: Indices) -> Indices:
        # subtle: rows of another dtype would let numpy copy the list
        return np.searchsorted(self._rows, rows.astype(self._rows.dtype))

    @override
    def listed(self) -> Indices:
        return self._rows.astype(np.int64, copy=False)

    @override
    def where(self, is_member: Member, rows: int) -> RowNumbers:
        members = row_bits(len(self), is_member)
        return row_list(len(members), rows, (self.at(positions) for positions in members.blocks()))


class RowBits(RowNumbers):
    """The ascending row numbers of a subset of `rows` rows, as a bit for each row.

    `bits` are bytes of 8 rows, the first in the least significant bit; there are rows // 64 + 1 words of 64.
    """

    def __init__(self, bits: npt.NDArray[np.uint8], rows: int) -> None:
        self._bits = bits.reshape(-1, _WORD // 8)
        self.rows = rows
        dtype = np.uint32 if rows < 2**32 else np.int64
        self._before = np.zeros(len(self._bits) + 1, dtype)
        """The members before each word of 64 rows, and all of them."""
        for start in range(0, len(self._bits), BLOCK):
            members = _MEMBERS[self._bits[start : start + BLOCK]].sum(axis=1, dtype=dtype)
            counts = self._before[start + 1 : start + 1 + len(members)]
            np.add(np.cumsum(members, dtype=dtype), self._before[start], out=counts)

    @override
    def __len__(self) -> int:
        return int(self._before[-1])

    @override
    def at(self, positions: Indices) -> Indices:
        rows = np.empty(len(positions), np.int64)
        words = self._bits.reshape(-1).view("<u8").astype(np.uint64, copy=False)
        _kernels().members_at(positions, words, self._before, self._hints, rows)
        return rows

    @cached_property
    def _hints(self) -> Indices:
        """The words of some members: see `row_kernels.members_at`."""
        members = np.arange(0, len(self), 1 << _kernels().HINT_SHIFT).astype(self._before.dtype)
        # subtle: members of another dtype would let numpy copy the counts
        words = np.searchsorted(self._before, members, side="right") - 1
        return np.append(words, len(self._bits) - 1)

    @override
    def blocks(self) -> Iterator[Indices]:
        for start in range(0, self.rows, BLOCK):
            word = np.arange(start // _WORD, -(-min(start + BLOCK, self.rows) // _WORD))
            yield start + np.flatnonzero(self._unpacked(word))

    @property
    @override
    def ascends(self) -> bool:
        return True

    @override
    def before(self, rows: Indices) -> Indices:
        word, rest = np.divmod(rows, _WORD)
        counts = self._before[word].astype(np.int64)
        for start in range(0, len(rows), BLOCK):
            part = slice(start, start + BLOCK)
            earlier = np.arange(_WORD) < rest[part, None]
            counts[part] += (self._unpacked(word[part]) & earlier).sum(axis=1, dtype=np.int64)
        return counts

    @override
    def listed(self) -> Indices:
        rows, position = np.empty(len(self), np.int64), 0
        for block in self.blocks():
            rows[position : position + len(block)] = block
            position += len(block)
        return rows

    @override
    def where(self, is_member: Member, rows: int) -> RowNumbers:
        def is_own(rows: Indices) -> npt.NDArray[np.bool_]:
            own = self.has(rows)
            first = int(self.before(rows[:1])[0])
            own[own] = is_member(np.arange(first, first + int(own.sum())))
            return own

        return _shortest(row_bits(rows, is_own))

    def has(self, rows: Indices) -> npt.NDArray[np.bool_]:
        """Return which of some rows (m,) are in the subset: (m,) bool."""
        byte, bit = np.divmod(rows, 8)
        return (self._bits.reshape(-1)[byte] >> bit.astype(np.uint8) & 1).astype(np.bool_)

    def has_not(self, rows: Indices) -> npt.NDArray[np.bool_]:
        """Return which of some rows (m,) are not in the subset: (m,) bool."""
        return ~self.has(rows)

    def _unpacked(self, word: Indices) -> npt.NDArray[np.uint8]:
        """Return the bits of words (m,) of 64 rows: (m, 64)."""
        return np.unpackbits(self._bits[word], axis=1, bitorder="little")


def row_bits(rows: int, is_member: Member) -> RowBits:
    """Return the subset of `rows` rows whose members a function tells."""
    bits = np.zeros((rows // _WORD + 1) * (_WORD // 8), np.uint8)
    for start in range(0, rows, BLOCK):
        packed = np.packbits(is_member(np.arange(start, min(start + BLOCK, rows))), bitorder="little")
        bits[start // 8 : start // 8 + len(packed)] = packed
    return RowBits(bits, rows)


def rows_where(rows: int, is_member: Member) -> RowNumbers:
    """Return the row numbers in [0, rows) that a function tells."""
    return _shortest(row_bits(rows, is_member))


def _shortest(members: RowBits) -> RowNumbers:
    """Return the same row numbers as a list if the rows are few, or few of them are members."""
    if members.rows <= MOST_LISTED or len(members) * 32 < members.rows:
        return row_list(len(members), members.rows, members.blocks())
    return members


def row_list(count: int, rows: int, blocks: Iterator[Indices]) -> RowList:
    """Return `count` row numbers in [0, rows) of blocks as a list, of 4 bytes each where they are many."""
    is_short = count <= MOST_LISTED or rows >= 2**32
    listed: npt.NDArray[np.integer] = np.empty(count, np.int64 if is_short else np.uint32)
    position = 0
    for block in blocks:
        listed[position : position + len(block)] = block
        position += len(block)
    return RowList(listed)


@functools.cache
def _kernels() -> ModuleType:
    """Return the module of the compiled function, which is imported on first use."""
    with importing_kernels:
        from tokenstore.reading import row_kernels
    return row_kernels
