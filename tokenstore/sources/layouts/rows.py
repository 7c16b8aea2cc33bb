"""Rows of codes in some place, and the split that they make: what the layouts of ready codes share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from typing_extensions import override

from tokenstore.errors import Parameter, SampleError, SourceError, did_you_mean
from tokenstore.sources.base import CodeSplit, Labels
from tokenstore.sources.code_values import unsigned_codes
from tokenstore.sources.files import LocalFile, SourceFile
from tokenstore.sources.labels import check_label_kind, check_labels
from tokenstore.sources.names import check_range, digest
from tokenstore.sources.npy_files import StoredArray
from tokenstore.texts import shortened

__all__ = [
    "TOKEN_NAMES",
    "ArrayRows",
    "CodeRows",
    "JoinedRows",
    "LayoutSplit",
    "chosen_tokens",
    "file_array",
    "grid_of",
    "joined_labels",
    "whole_file_array",
]

TOKEN_NAMES = ("tokens", "codes", "token", "code", "token_ids", "indices")
"""The names of what holds codes, best first."""
_RANGE_NBYTES = 2**24


class CodeRows(Protocol):
    """The codes of some samples, of which neighbouring ones are read on demand; small, and can be pickled."""

    @property
    def where(self) -> str:
        """The place, for messages."""

    @property
    def grid(self) -> tuple[int, ...]:
        """The shape of a sample's codes."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def rows(self, start: int, stop: int) -> npt.NDArray[np.generic]:
        """Return codes (stop - start, *grid) of an integer type; raise SourceError where they are damaged."""

    def names(self, start: int, stop: int) -> pa.Array:
        """Return printable names of samples [start, stop), a `pa.string()` array."""

    def fingerprint(self) -> str:
        """Return a text that changes when samples are added, removed or put elsewhere."""


@dataclass(frozen=True)
class LayoutSplit(CodeSplit):
    """The samples of one split: rows of codes, and their labels (N,) int32 where they have some."""

    stored: CodeRows
    all_labels: Labels | None = None

    @property
    @override
    def columns(self) -> Mapping[str, tuple[np.dtype[np.generic], tuple[int, ...]]]:
        return {}

    @override
    def __len__(self) -> int:
        return len(self.stored)

    @override
    def names(self, start: int, stop: int) -> pa.Array:
        check_range(start, stop, len(self))
        return self.stored.names(start, stop)

    @override
    def labels(self, start: int, stop: int) -> Labels | None:
        check_range(start, stop, len(self))
        return None if self.all_labels is None else self.all_labels[start:stop]

    @override
    def fingerprint(self) -> str:
        return digest(self.stored.fingerprint(), self.all_labels)

    @override
    def codes(self, start: int, stop: int) -> npt.NDArray[np.unsignedinteger]:
        """Return codes (stop - start, *grid).

        Raises SourceError, naming the sample, for codes below 0 or of more than 31 bits.
        """
        check_range(start, stop, len(self))
        return unsigned_codes(self.stored.rows(start, stop), start, self.stored.where)

    @override
    def column(self, name: str, start: int, stop: int) -> npt.NDArray[np.generic]:
        raise KeyError(name)


@dataclass(frozen=True)
class ArrayRows(CodeRows):
    """The rows of an array in a file."""

    name: str
    stored: StoredArray

    @property
    @override
    def where(self) -> str:
        return self.stored.where

    @property
    @override
    def grid(self) -> tuple[int, ...]:
        return self.stored.shape[1:]

    @override
    def __len__(self) -> int:
        return len(self.stored)

    @override
    def rows(self, start: int, stop: int) -> npt.NDArray[np.generic]:
        return self.stored.rows(start, stop)

    @override
    def names(self, start: int, stop: int) -> pa.Array:
        return pa.array([f"{self.name}[{row}]" for row in range(start, stop)], pa.string())

    @override
    def fingerprint(self) -> str:
        return digest(self.name, self.stored.dtype.str, repr(self.stored.shape))


@dataclass(frozen=True)
class JoinedRows(CodeRows):
    """The rows of several parts, such as files, one behind another; all have one grid."""

    parts: tuple[CodeRows, ...]
    starts: npt.NDArray[np.int64]
    """The first sample of each part, and at the end the number of samples."""

    @classmethod
    def of(cls, parts: Sequence[CodeRows], where: str) -> CodeRows:
        """Return the rows of all parts; raise SourceError for grids that differ."""
        grids = {part.grid: part.where for part in reversed(parts)}
        if len(grids) > 1:
            found = ", ".join(f"{grid} in {place}" for grid, place in list(grids.items())[-2:])
            raise SourceError(f"{where}: expected samples of one grid, found {found}")
        if len(parts) == 1:
            return parts[0]
        return cls(tuple(parts), np.concatenate(([0], np.cumsum([len(part) for part in parts]))))

    @property
    @override
    def where(self) -> str:
        return self.parts[0].where

    @property
    @override
    def grid(self) -> tuple[int, ...]:
        return self.parts[0].grid

    @override
    def __len__(self) -> int:
        return int(self.starts[-1])

    def _pieces(self, start: int, stop: int) -> list[tuple[CodeRows, int, int]]:
        """Return the parts that samples [start, stop) lie in, each with its rows."""
        first = int(np.searchsorted(self.starts, start, "right")) - 1
        last = int(np.searchsorted(self.starts, stop))
        return [
            (self.parts[part], max(start - begin, 0), min(stop, int(self.starts[part + 1])) - begin)
            for part in range(first, max(last, first))
            for begin in (int(self.starts[part]),)
        ]

    @override
    def rows(self, start: int, stop: int) -> npt.NDArray[np.generic]:
        pieces = [
            unsigned_codes(part.rows(begin, end), begin, part.where)  # which names the part's own sample
            for part, begin, end in self._pieces(start, stop)
        ]
        return np.concatenate(pieces) if pieces else self.parts[0].rows(0, 0)

    @override
    def names(self, start: int, stop: int) -> pa.Array:
        pieces = [part.names(begin, end) for part, begin, end in self._pieces(start, stop)]
        return pa.concat_arrays(pieces) if pieces else pa.array([], pa.string())

    @override
    def fingerprint(self) -> str:
        return digest(*(part.fingerprint() for part in self.parts))


def grid_of(splits: Mapping[str, CodeRows], where: str) -> tuple[int, ...]:
    """Return the one grid of all splits; raise SourceError where they differ."""
    grids = {split: rows.grid for split, rows in splits.items()}
    if len(set(grids.values())) > 1:
        raise SourceError(f"{where}: splits differ in their grids: {grids}")
    return next(iter(grids.values()))


def joined_labels(parts: Sequence[StoredArray | None], samples: Sequence[int], where: str) -> Labels | None:
    """Return the labels (N,) of all parts, of which each has so many samples; None if no part has some.

    Raises SourceError if only some parts have labels, and for labels that do not fit.
    """
    with_labels = [part for part in parts if part is not None]
    if not with_labels:
        return None
    if len(with_labels) < len(parts):
        raise SourceError(f"{where}: {len(parts) - len(with_labels)} of {len(parts)} files have no labels")
    labels = []
    for part, count in zip(with_labels, samples, strict=True):
        if len(part.shape) == 2 and part.shape[1] == 1:  # (N, 1), as frameworks like to write them
            part = StoredArray(part.where, part.dtype, part.shape[:1], part.offset, part.read, part.close)
        check_label_kind(part.dtype, part.shape, part.where)
        if len(part) != count:
            raise SourceError(f"{part.where}: {len(part)} labels for {count} samples")
        labels.append(check_labels(part.whole(part.nbytes), part.where))
    return np.concatenate(labels)


def chosen_tokens(given: str | None, known: Mapping[str, bool], where: str, what: str) -> str:
    """Return the name of what holds the codes: `given`, one by its name, or the only one that can hold some.

    `known` says of each name whether codes can be there; `what` names these things in messages. Raises
    SourceError where nothing, or more than one, fits.
    """
    parameter = Parameter("token_column", given)
    if given is not None:
        if given not in known:
            raise SourceError(
                f"{where}: {parameter}: no such {what}; found {shortened(list(known), 20) or 'none'}"
                f"{did_you_mean(given, known)}",
                parameters=[parameter],
            )
        return given
    fitting = [name for name, fits in known.items() if fits]
    named = [name for name in TOKEN_NAMES if name in fitting]
    if named or len(fitting) == 1:
        return (named or fitting)[0]
    raise SourceError(
        f"{where}: expected one {what} of codes, named {', '.join(TOKEN_NAMES)} or the only one of its kind, "
        f"found {shortened(fitting or list(known), 20) or 'none'}"
        + (f"; {parameter} takes one" if len(fitting) > 1 else ""),
        parameters=[parameter] if len(fitting) > 1 else [],
    )


def file_array(
    file: SourceFile, where: str, dtype: np.dtype[np.generic], shape: tuple[int, ...], offset: int
) -> StoredArray:
    """Return the array of a dtype and shape that begins at an offset of a file."""
    return StoredArray(where, dtype, shape, offset, _FileBytes(file))


def whole_file_array(path: Path, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> StoredArray:
    """Return the array of a dtype and shape that fills a local file.

    Raises SourceError for a file of another length.
    """
    file = LocalFile.of(path)
    try:
        nbytes = file.nbytes
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror or error}") from error
    stored = file_array(file, str(path), dtype, shape, 0)
    if nbytes != stored.nbytes:
        raise SourceError(
            f"{path}: {dtype} {shape} takes {stored.nbytes} bytes, found {nbytes}: cut off, or of "
            "another type"
        )
    return stored


@dataclass(frozen=True)
class _FileBytes:
    """A function that reads bytes of a file, in the machine's memory or at a URL."""

    file: SourceFile

    def __call__(self, start: int, count: int) -> bytes:
        if not count:
            return b""
        ranges = [
            (first, min(_RANGE_NBYTES, start + count - first))
            for first in range(start, start + count, _RANGE_NBYTES)
        ]
        pieces = self.file.read_ranges(ranges)
        for piece in pieces:
            if isinstance(piece, SampleError):
                raise SourceError(str(piece))
        return b"".join(piece for piece in pieces if isinstance(piece, bytes))
