"""The content of one split as it is exported: which columns, what their values are, and a stream of these."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tokenstore.codecs import TEXT, Column
from tokenstore.codecs.soft_labels import SoftLabels
from tokenstore.errors import StoreError
from tokenstore.format import LABELS, TOKENS
from tokenstore.reading import SplitReader
from tokenstore.reading.checked_files import samples_batches
from tokenstore.writing.export.pictures import Pictures

__all__ = ["IMAGE", "SOURCE", "Digests", "SplitContents", "Values"]

Values: TypeAlias = Mapping[str, npt.NDArray[Any]]

SOURCE = "source"
"""The column of the samples' own names, which are in a store's samples table."""
IMAGE = "image"
"""The column of the samples' pictures, which are decoded from their codes."""
_SIZES = ("width", "height")
_OF_TABLE = (SOURCE, *_SIZES)
_BATCH_NBYTES = 2**22
_MOST_BATCH = 2**13
_MOST_CHARACTERS = 2**14
"""The most characters of a text in an array of numpy."""


@dataclass(frozen=True)
class SplitContents:
    """The samples of one split, with those of their columns that are exported, tokens first.

    The values of a column are as a data set gives them: soft labels are probabilities. `source`, `width` and
    `height` are those of the samples table.
    """

    reader: SplitReader
    names: tuple[str, ...]
    pictures: Pictures | None = field(default=None, repr=False)

    @property
    def split(self) -> str:
        """The name of the split."""
        return self.reader.name

    def __len__(self) -> int:
        return len(self.reader)

    @property
    def kinds(self) -> dict[str, Column]:
        """The dtype, shape and form of the values of each column, pictures aside."""
        return {name: self.kind(name) for name in self.names if name != IMAGE}

    def kind(self, name: str) -> Column:
        """Return what the values of a column are."""
        if name in self.reader.arrays:
            column = self.reader.column(name)
            if isinstance(column.form, SoftLabels):
                return Column(np.dtype(np.float32), (column.form.classes,))
            return column
        return TEXT if name == SOURCE else Column(np.dtype(np.int32))

    @property
    def batch_samples(self) -> int:
        """The number of samples of which all columns together take a few megabytes."""
        nbytes = sum(kind.nbytes for kind in self.kinds.values())
        if self.pictures is not None:
            nbytes += self.pictures.nbytes
        return max(1, min(_MOST_BATCH, _BATCH_NBYTES // max(1, nbytes)))

    def batches(
        self, names: Sequence[str], start: int, stop: int, size: int | None = None
    ) -> Iterator[Values]:
        """Yield the values of some columns of the samples [start, stop), `size` or fewer samples at a time.

        Raises DamageError, and StorageError where remote storage does not answer.
        """
        step = size or self.batch_samples
        needed = {TOKENS, *names} if IMAGE in names else set(names)
        readers = {name: self.reader.arrays[name].streamed() for name in needed if name in self.reader.arrays}
        table = (
            _TableRows(self.reader, start) if any(name not in readers for name in needed - {IMAGE}) else None
        )
        for first in range(start, stop, step):
            last = min(first + step, stop)
            values = {name: array.read_range(first, last) for name, array in readers.items()}
            if table is not None:
                values |= table.take(last - first)
            if IMAGE in names and self.pictures is not None:
                codes = values[TOKENS]
                axes = len(self.reader.store.manifest.grid)
                values[IMAGE] = self.pictures.draw(codes if codes.ndim == 1 + axes else codes[:, 0])
            yield {name: self._given(name, values[name]) for name in names}

    def text_characters(self, name: str) -> int:
        """Return the most characters of a text in a column, at least 1; it is read for that.

        Raises StoreError for a text that ends in a null character, which arrays of numpy lose.
        """
        longest = 1
        for values in self.batches([name], 0, len(self), _MOST_BATCH):
            for text in values[name].tolist():
                longest = max(longest, len(text))
                if longest > _MOST_CHARACTERS:
                    raise StoreError(
                        f"{self.split}/{name}: expected texts of at most {_MOST_CHARACTERS:,} characters, "
                        f"since an array of numpy has room for the longest in every row, found {longest:,}. "
                        "Leave the column out, or export to another layout"
                    )
                if text.endswith("\0"):
                    raise StoreError(
                        f"{self.split}/{name}: a text ends in a null character, which an array of numpy does "
                        "not keep; leave the column out, or export to another layout"
                    )
        return longest

    def _given(self, name: str, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if name not in self.reader.arrays:
            return values
        return self.reader.column(name).values(values)


def columns_of(reader: SplitReader) -> tuple[str, ...]:
    """Return the names of all that can be exported of a split: its arrays, and columns of the samples table.

    An array of the same name hides a column of the table.
    """
    has_sizes = reader.store.manifest.preprocessing is not None
    of_table = _OF_TABLE if has_sizes else (SOURCE,)
    arrays = [name for name in reader.arrays if name not in (TOKENS, LABELS)]
    first = [TOKENS, *([LABELS] if LABELS in reader.arrays else [])]
    return (*first, *arrays, *(name for name in of_table if name not in reader.arrays))


def is_of_table(reader: SplitReader, name: str) -> bool:
    """Return True for a column of the samples table, which is a note on a sample's origin."""
    return name not in reader.arrays


class _TableRows:
    """The rows of a samples table from `start` on, taken in order."""

    def __init__(self, reader: SplitReader, start: int) -> None:
        self._batches = samples_batches(reader.store, reader.name, start)
        self._left: Any = None

    def take(self, count: int) -> dict[str, npt.NDArray[Any]]:
        """Return the next rows: texts, and sizes in pixels with 0 for an unknown one."""
        parts: dict[str, list[Any]] = {name: [] for name in _OF_TABLE}
        while count:
            if self._left is None or not len(self._left):
                self._left = next(self._batches)
            here = self._left.slice(0, count)
            self._left = self._left.slice(len(here))
            count -= len(here)
            for name, values in parts.items():
                values += here.column(name).to_pylist()
        texts: npt.NDArray[Any] = np.empty(len(parts[SOURCE]), object)
        texts[:] = parts[SOURCE]
        return {
            SOURCE: texts,
            **{name: np.array([size or 0 for size in parts[name]], np.int32) for name in _SIZES},
        }


class Digests:
    """The SHA-256 of each column's values, however they are cut into batches."""

    def __init__(self, kinds: Mapping[str, Column]) -> None:
        self._kinds = kinds
        self._sums: dict[str, Any] = {}
        self._rows: dict[str, int] = {}

    def add(self, values: Values, where: str = "") -> None:
        """Add the next values; raise StoreError for values that are none of their column."""
        for name, rows in values.items():
            digest = self._sums.setdefault(name, hashlib.sha256())
            self._rows[name] = self._rows.get(name, 0) + len(rows)
            kind = self._kinds.get(name)
            if kind is None or kind.is_ragged:
                for each in rows.tolist() if rows.dtype == object else rows:
                    data = _bytes_of(each)
                    digest.update(len(data).to_bytes(8, "little") + data)
                continue
            digest.update(_as_kind(rows, kind, f"{where}{name}").tobytes())

    def to_dict(self) -> dict[str, list[Any]]:
        """Return the number of values and their digest (hex) of each column, as JSON values."""
        return {name: [self._rows[name], digest.hexdigest()] for name, digest in sorted(self._sums.items())}


def _bytes_of(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode()
    return value if isinstance(value, bytes) else np.ascontiguousarray(value).tobytes()


def _as_kind(values: npt.NDArray[Any], kind: Column, where: str) -> npt.NDArray[Any]:
    """Return values in the dtype of their column, little-endian; raise StoreError if they are not in it."""
    with np.errstate(invalid="ignore"):
        cast = values.astype(kind.dtype.newbyteorder("<"))
    if values.dtype != kind.dtype and not np.array_equal(cast, values, equal_nan=kind.dtype.kind == "f"):
        raise StoreError(f"{where}: expected values of {kind.dtype}, found others in {values.dtype}")
    if values.shape[1:] != kind.shape:
        cast = cast.reshape(len(cast), *kind.shape)
    if kind.dtype.kind == "f":
        cast[np.isnan(cast)] = np.nan  # of which a float has many
    return np.ascontiguousarray(cast)
