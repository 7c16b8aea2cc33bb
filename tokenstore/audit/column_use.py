"""The column `further` of the audit: what the values of each column beside tokens and labels are like."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tokenstore.audit.info import file_nbytes
from tokenstore.codecs import TEXT
from tokenstore.format import LABELS, TOKENS
from tokenstore.reading import SplitReader

if TYPE_CHECKING:
    from tokenstore.audit.columns import StatsOptions
    from tokenstore.reading import TokenStore

Values: TypeAlias = npt.NDArray[Any]

MOST_DISTINCT = 10_000
"""The most distinct values that are counted."""
_BLOCK_NBYTES = 2**22
"""The bytes of values that are read together."""


@dataclass(frozen=True)
class Spread:
    """The least, the mean and the greatest of numbers."""

    least: float
    mean: float
    greatest: float


@dataclass(frozen=True)
class ColumnUse:
    """The values of one further column of a split."""

    kind: str
    """The dtype and shape of a sample, or its form."""
    nbytes: int
    """The bytes of the column's files."""
    empty: int
    """The texts or lists without anything in them; of floats, the samples with one that is not finite."""
    distinct: int | None
    """The distinct texts, or numbers of one a sample; None for other columns, and for more than 10,000."""
    lengths: Spread | None
    """The characters of a text, or the items of a list; None for other columns."""
    values: Spread | None
    """The finite numbers, of all samples together; None for texts, and where there are none."""


def column_use(store: TokenStore, options: StatsOptions) -> Mapping[str, Mapping[str, ColumnUse]] | None:
    """Read every further column and return its statistics, by split and name, if the options ask for them.

    Soft labels are read as probabilities. Raises DamageError for damaged values.
    """
    if not options.further:
        return None
    return {
        split: {
            name: _use_of(store, split, name) for name in store[split].columns if name not in (TOKENS, LABELS)
        }
        for split in store.splits
    }


def _use_of(store: TokenStore, split: str, name: str) -> ColumnUse:
    column = store[split].column(name)
    lengths, numbers, distinct = RunningSpread(), RunningSpread(), _Distinct()
    empty = 0
    for values in _blocks(store[split], name):
        if column.is_ragged:
            sizes = np.fromiter(map(len, values), np.int64, len(values))
            lengths.add(sizes)
            empty += int((sizes == 0).sum())
        if column == TEXT:
            distinct.add(values.tolist())
            continue
        flat = np.concatenate([each.reshape(-1) for each in values])
        finite = np.isfinite(flat)
        numbers.add(flat[finite])
        if not column.is_ragged:
            empty += int((~finite.reshape(len(values), -1)).any(axis=1).sum())
            if not column.shape:
                distinct.add(np.unique(flat).tolist())
    is_counted = column == TEXT or not (column.is_ragged or column.shape)
    return ColumnUse(
        kind=str(column),
        nbytes=file_nbytes(store, f"{split}/{name}/"),
        empty=empty,
        distinct=distinct.count if is_counted else None,
        lengths=lengths.spread,
        values=numbers.spread,
    )


def _blocks(split: SplitReader, name: str) -> Iterator[Values]:
    """Yield the values of a column, as a data set gives them, block by block."""
    column, reader = split.column(name), split.array(name).streamed()
    step = max(1, _BLOCK_NBYTES // max(1, column.nbytes))
    for start in range(0, len(split), step):
        yield column.values(reader.read_range(start, min(start + step, len(split))))


class RunningSpread:
    """The least, the sum and the greatest of numbers that come in parts."""

    def __init__(self) -> None:
        self._least, self._greatest = math.inf, -math.inf
        self._sum, self._count = 0.0, 0

    def add(self, numbers: Values) -> None:
        """Add numbers of any shape."""
        if numbers.size:
            self._least = min(self._least, float(numbers.min()))
            self._greatest = max(self._greatest, float(numbers.max()))
            self._sum += float(numbers.sum(dtype=np.float64))
            self._count += numbers.size

    @property
    def spread(self) -> Spread | None:
        """The spread of all numbers; None without any."""
        return Spread(self._least, self._sum / self._count, self._greatest) if self._count else None


class _Distinct:
    """The distinct values, as far as there are few of them."""

    def __init__(self) -> None:
        self._known: set[Any] | None = set()

    def add(self, values: list[Any]) -> None:
        """Add values."""
        if self._known is not None:
            # subtle: NaN equals no other one, but a set has the same object once
            self._known.update(math.nan if each != each else each for each in values)
            if len(self._known) > MOST_DISTINCT:
                self._known = None

    @property
    def count(self) -> int | None:
        """The number of distinct values; None for more than are counted."""
        return None if self._known is None else len(self._known)
