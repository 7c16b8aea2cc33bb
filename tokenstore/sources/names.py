"""The names of samples in Arrow columns: built, sliced, looked up, printed, and one digest over a listing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

__all__ = [
    "NameBuilder",
    "Tally",
    "check_range",
    "counted",
    "digest",
    "first_indices",
    "is_plain_name",
    "printable",
    "printable_names",
    "sliced",
]

_NAMES_A_CHUNK = 65_536
_MOST_NAME_NBYTES = 255


class NameBuilder:
    """A builder of a column of names, as bytes, that keeps no object for each name."""

    def __init__(self) -> None:
        self._chunks: list[pa.Array] = []
        self._pending: list[bytes | None] = []

    def append(self, name: bytes | None) -> None:
        """Add a name, or a null."""
        self._pending.append(name)
        if len(self._pending) == _NAMES_A_CHUNK:
            self._flush()

    def extend(self, names: Iterable[bytes]) -> int:
        """Append all names and return how many they were."""
        before = len(self)
        for name in names:
            self.append(name)
        return len(self) - before

    def __len__(self) -> int:
        return len(self._chunks) * _NAMES_A_CHUNK + len(self._pending)

    def finish(self) -> pa.ChunkedArray:
        """Return the names as `pa.binary()`; the builder must not be used afterwards."""
        self._flush()
        return pa.chunked_array(self._chunks, pa.binary())

    def _flush(self) -> None:
        if self._pending:
            self._chunks.append(pa.array(self._pending, pa.binary()))
            self._pending = []


def printable(name: bytes) -> str:
    """Return a name as text, in which bytes that are not UTF-8 are escapes."""
    return name.decode("utf-8", "backslashreplace")


def printable_names(names: pa.Array) -> pa.Array:
    """Return `pa.binary()` names as `pa.string()`, in which bytes that are not UTF-8 are escapes."""
    try:
        return names.cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array([printable(name) for name in names.to_pylist()], pa.string())


def sliced(names: pa.ChunkedArray, start: int, stop: int) -> pa.Array:
    """Return the entries [start, stop) as one array."""
    return pa.concat_arrays(names.slice(start, stop - start).chunks or [pa.array([], names.type)])


def check_range(start: int, stop: int, length: int) -> None:
    """Raise IndexError unless [start, stop) lies within `length` samples."""
    if not 0 <= start <= stop <= length:
        raise IndexError(f"samples [{start}, {stop}) of a split of {length}")


def digest(*parts: pa.ChunkedArray | npt.NDArray[np.generic] | str | int | None) -> str:
    """Return a SHA-256 (hex) over columns of names, arrays and single values, whatever the names' chunks."""
    whole = hashlib.sha256()
    for part in parts:
        if isinstance(part, pa.ChunkedArray):
            whole.update(_digest_of_names(part))
        elif isinstance(part, np.ndarray):
            whole.update(repr((part.dtype.str, part.shape)).encode())
            whole.update(np.ascontiguousarray(part).view(np.uint8).data)
        else:
            whole.update(hashlib.sha256(repr(part).encode("utf-8", "backslashreplace")).digest())
    return whole.hexdigest()


def _digest_of_names(names: pa.ChunkedArray) -> bytes:
    lengths, values = hashlib.sha256(), hashlib.sha256()
    for chunk in filter(len, names.chunks):
        ends = np.cumsum(pc.binary_length(chunk).to_numpy(), dtype=np.int64)
        lengths.update(np.diff(ends, prepend=0).data)
        offset = int(np.frombuffer(chunk.buffers()[1], np.int32)[chunk.offset])
        values.update(memoryview(chunk.buffers()[2])[offset : offset + int(ends[-1])])
    return lengths.digest() + values.digest()


def first_indices(names: pa.ChunkedArray, among: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.int32]:
    """Return the index at which each name first occurs among others, (N,) int32, -1 for nowhere."""
    indices: npt.NDArray[np.int32] = pc.fill_null(pc.index_in(names, value_set=among), -1).to_numpy()
    return indices


def counted(what: str, count: int, example: str) -> str:
    """Return a message such as `links skipped: 3 (first: a/b)`."""
    return f"{what}: {count} (first: {example})"


def is_plain_name(name: object) -> bool:
    """Return whether a name in a file is that of a file or folder beside it, and no path to elsewhere."""
    if not isinstance(name, str) or name in ("", ".", "..") or not name.isprintable():
        return False
    return not set(name) & set("/\\") and len(name.encode()) <= _MOST_NAME_NBYTES


@dataclass
class Tally:
    """A count of things that are alike, with the name of the first."""

    what: str
    count: int = 0
    first: bytes = b""

    def add(self, name: bytes) -> None:
        """Count one more thing, of that name."""
        self.first = name if not self.count else min(name, self.first)
        self.count += 1

    def merge(self, other: Tally) -> None:
        """Count the things that another tally counted."""
        if other.count:
            self.first = other.first if not self.count else min(other.first, self.first)
            self.count += other.count

    def facts(self) -> list[int | str]:
        """Return the count and the first name as JSON values, for `of`."""
        return [self.count, self.first.hex()]

    @classmethod
    def of(cls, what: str, facts: Sequence[Any]) -> Self:
        """Return a tally of the counts that another's `facts` are."""
        return cls(what, int(facts[0]), bytes.fromhex(facts[1]))

    def notes(self) -> tuple[str, ...]:
        """Return one note, or none if nothing was counted."""
        return (counted(self.what, self.count, printable(self.first)),) if self.count else ()
