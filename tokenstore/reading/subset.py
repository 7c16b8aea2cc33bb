"""A subset of samples, without copies of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from hashlib import sha256
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from tokenstore.format import LABELS, TOKENS, Column, Manifest
from tokenstore.reading.array import Indices, Values, normalised, of_indices
from tokenstore.reading.row_numbers import BLOCK, Member, RowNumbers, row_list, rows_where
from tokenstore.reading.split import SplitReader
from tokenstore.reading.views import Rows, source_indices

__all__ = ["Subset"]

BATCH_ROWS = 2**15
"""The most rows of a batch of a subset's samples."""


class Subset(Rows):
    """The samples of other rows at `indices` (m,), in that order. Raises IndexError for bad indices."""

    def __init__(self, rows: Rows, indices: object) -> None:
        self._rows = rows.base
        array = np.asarray(indices)
        if array.ndim == 0:  # which `normalised` takes for one sample, not for rows
            raise IndexError(f"expected a list of integers, found {array.dtype} of shape ()")
        blocks = (array[start : start + BLOCK] for start in range(0, array.size, BLOCK))
        checked = (normalised(block, len(rows)) for block in (blocks if array.ndim == 1 else [array]))
        numbers = (source_indices(rows, block) for block in checked)
        self._numbers: RowNumbers = row_list(array.size, len(self._rows), numbers)

    @classmethod
    def of_numbers(cls, base: Rows, numbers: RowNumbers) -> Self:
        """Return the subset of some row numbers of rows that are their own base."""
        subset = cls.__new__(cls)
        subset._rows, subset._numbers = base, numbers
        return subset

    @classmethod
    def where(cls, rows: Rows, is_member: Member) -> Self:
        """Return the samples, in their order, that a function tells: see `row_numbers.Member`.

        Of many samples, nothing is in memory at a time but a few bits for each.
        """
        base, own = len(rows.base), rows.row_numbers
        numbers = rows_where(base, is_member) if own is None else own.where(is_member, base)
        return cls.of_numbers(rows.base, numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    def __repr__(self) -> str:
        return f"{len(self):,} samples of {self._rows!r}"

    @property
    @override
    def base(self) -> Rows:
        return self._rows

    @property
    @override
    def indices(self) -> Indices:
        return self._numbers.listed()

    @property
    @override
    def row_numbers(self) -> RowNumbers:
        return self._numbers

    @property
    @override
    def splits(self) -> tuple[SplitReader, ...]:
        return self._rows.splits

    @override
    def by_split(self, indices: Indices) -> Iterator[tuple[int, Indices, Indices]]:
        return self._rows.by_split(self._numbers.at(indices))

    @property
    @override
    def columns(self) -> tuple[str, ...]:
        return self._rows.columns

    @property
    @override
    def manifests(self) -> tuple[Manifest, ...]:
        return self._rows.manifests

    @cached_property
    @override
    def labels(self) -> npt.NDArray[np.int32] | None:
        if LABELS not in self.columns:
            return None
        labels = np.empty(len(self), np.int32)
        for start in range(0, len(self), BLOCK):
            part = labels[start : start + BLOCK]
            self.read(LABELS, np.arange(start, start + len(part)), part)
        return labels

    @cached_property
    @override
    def fingerprint(self) -> str:
        digest = sha256()
        for numbers in self._numbers.blocks():
            digest.update(numbers.astype("<i8").tobytes())
        return f"{self._rows.fingerprint}[{digest.hexdigest()[:16]}]"

    @property
    @override
    def is_local(self) -> bool:
        return self._rows.is_local

    @cached_property
    @override
    def starts(self) -> Indices:
        if self._numbers.ascends:
            firsts = np.unique(self._numbers.before(self._rows.starts))
            return np.append(firsts[firsts < len(self)], len(self))
        run = np.searchsorted(self._rows.starts, self._numbers.listed(), side="right")
        return np.append(np.flatnonzero(np.diff(run, prepend=-1)), len(self))

    @property
    @override
    def joined(self) -> int:
        return self._rows.joined

    @override
    def column(self, name: str) -> Column:
        return self._rows.column(name)

    @override
    def view_column(self, name: str) -> Column:
        return self._rows.view_column(name)

    @override
    def read(
        self,
        name: str,
        indices: object = None,
        out: Values | None = None,
        prefetched: Any = None,
        view: object = None,
    ) -> Values:
        row_numbers = self._numbers.at(normalised(indices, len(self)))
        return of_indices(self._rows.read(name, row_numbers, out, prefetched, view), indices)

    @override
    def prefetch(self, indices: Indices, columns: Sequence[str] = (TOKENS,)) -> Any:
        return self._rows.prefetch(self._numbers.at(indices), columns)

    @override
    def reserve_cache(self, samples: int, columns: Sequence[str] = (TOKENS,)) -> None:
        self._rows.reserve_cache(samples, columns)

    @override
    def samples_table(self) -> Any:
        return self._rows.samples_table().take(self.indices)

    @override
    def samples_batches(self) -> Iterator[Any]:
        import pyarrow as pa

        if not self._numbers.ascends:  # a row may be needed after any other
            yield from self.samples_table().combine_chunks().to_batches(BATCH_ROWS)
            return
        start = 0
        for batch in self._rows.samples_batches():
            stop = start + len(batch)
            first, last = self._numbers.before(np.array([start, stop]))
            if first < last:
                yield batch.take(pa.array(self._numbers.at(np.arange(first, last)) - start))
            start = stop

    @override
    def in_memory(self, columns: Sequence[str]) -> Rows:
        return self.of_numbers(self._rows.in_memory(columns), self._numbers)
