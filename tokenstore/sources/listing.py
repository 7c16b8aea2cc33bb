"""What every listing of samples needs: names in Arrow, labels in numpy, one digest over both."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tokenstore.errors import SampleError, SourceError
from tokenstore.sources.base import Labels

_ROWS_A_CHUNK = 65_536
MAX_FILE_BYTES = 2**30
"""Encoded images above this size are refused unread."""

_MAX_LABEL = int(np.iinfo(np.int32).max)
_INTEGER = re.compile(rb"-?[0-9]+")


class NameBuilder:
    """Collects names, as bytes, without keeping an object for each."""

    def __init__(self) -> None:
        self._chunks: list[pa.Array] = []
        self._pending: list[bytes] = []

    def append(self, name: bytes) -> None:
        self._pending.append(name)
        if len(self._pending) == _ROWS_A_CHUNK:
            self._flush()

    def extend(self, names: Iterable[bytes]) -> int:
        """Append all and say how many they were."""
        before = len(self)
        for name in names:
            self.append(name)
        return len(self) - before

    def __len__(self) -> int:
        return len(self._chunks) * _ROWS_A_CHUNK + len(self._pending)

    def finish(self) -> pa.ChunkedArray:
        """The names as `pa.binary()`; the builder must not be used afterwards."""
        self._flush()
        return pa.chunked_array(self._chunks, pa.binary())

    def _flush(self) -> None:
        if self._pending:
            self._chunks.append(pa.array(self._pending, pa.binary()))
            self._pending = []


@dataclass
class ClassIds:
    """Class names in the order they were met, until all are known and can be sorted."""

    _ids: dict[bytes, int] = field(default_factory=dict)

    def __getitem__(self, name: bytes) -> int:
        return self._ids.setdefault(name, len(self._ids))

    def __bool__(self) -> bool:
        return bool(self._ids)

    def sorted_names(self) -> tuple[str, ...]:
        """Printable names by their bytes. Raises SourceError where two would print the same."""
        names = tuple(printable(name) for name in sorted(self._ids))
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise SourceError(f"two classes print as {twice!r}; rename the one that is not UTF-8")
        return names

    def final_labels(self, ids: npt.NDArray[np.integer]) -> Labels:
        """Labels (N,) int32 that index `sorted_names`, from the ids given out (N,)."""
        rank = np.empty(len(self._ids), np.int32)
        for label, name in enumerate(sorted(self._ids)):
            rank[self._ids[name]] = label
        labels: Labels = rank[ids]
        return labels


@dataclass(frozen=True)
class Listing:
    """Names of samples, `pa.binary()`, and their labels (N,) int32 where there are any."""

    names: pa.ChunkedArray
    labels: Labels | None

    def __len__(self) -> int:
        return len(self.names)


def printable(name: bytes) -> str:
    """A name for people; bytes that are not UTF-8 show as escapes."""
    return name.decode("utf-8", "backslashreplace")


def printable_names(names: pa.Array) -> pa.Array:
    """`pa.binary()` as `pa.string()`, escaping what is not UTF-8."""
    try:
        return names.cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array([printable(name) for name in names.to_pylist()], pa.string())


def rows(names: pa.ChunkedArray, start: int, stop: int) -> pa.Array:
    """Entries [start, stop) in one piece."""
    return pa.concat_arrays(names.slice(start, stop - start).chunks or [pa.array([], names.type)])


def check_range(start: int, stop: int, length: int) -> None:
    """Raise IndexError unless [start, stop) lies within `length` samples."""
    if not 0 <= start <= stop <= length:
        raise IndexError(f"samples [{start}, {stop}) of a split of {length}")


def digest(*parts: pa.ChunkedArray | npt.NDArray[np.generic] | str | int | None) -> str:
    """SHA-256 (hex) over columns of names, arrays and single values, whatever the chunks of the names."""
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
    for chunk in names.chunks:
        ends = np.cumsum(pc.binary_length(chunk).to_numpy(), dtype=np.int64)
        lengths.update(np.diff(ends, prepend=0).data)
        offset = int(np.frombuffer(chunk.buffers()[1], np.int32)[chunk.offset])
        values.update(memoryview(chunk.buffers()[2])[offset : offset + int(ends[-1])])
    return lengths.digest() + values.digest()


def check_labels(labels: npt.NDArray[np.generic], where: str) -> Labels:
    """Integers (N,) as int32. Raises SourceError for other types, negative and too large labels."""
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise SourceError(
            f"{where}: expected labels as one row of integers, found {labels.dtype} {labels.shape}"
        )
    if labels.size:
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high > _MAX_LABEL:
            bad = int(np.argmax((labels < 0) | (labels > _MAX_LABEL)))  # type: ignore[operator]
            raise SourceError(
                f"{where}: expected labels 0..{_MAX_LABEL}, found {labels[bad]} at sample {bad}"
            )
    return labels.astype(np.int32)


def check_class_range(labels: Mapping[str, Labels], class_names: tuple[str, ...] | None, where: str) -> None:
    """Raise SourceError where a label of some split has no class name."""
    for split, column in labels.items():
        if class_names is not None and column.size and int(column.max()) >= len(class_names):
            sample = int(np.argmax(column >= len(class_names)))
            raise SourceError(
                f"{where}: split {split}: sample {sample} has label {column[sample]}, but there are only "
                f"{len(class_names)} class names"
            )


def label_splits(
    texts: Mapping[str, pa.ChunkedArray], where: str, may_be_numbers: bool = True
) -> tuple[dict[str, Labels], tuple[str, ...] | None]:
    """Labels (N,) int32 of each split from `pa.binary()` texts, and the class names they index.

    The names are those of all splits, sorted. Where all texts are integers they are the labels, and there
    are no names, unless they may not be numbers. Raises SourceError for numbers that are no labels and for
    empty texts.
    """
    together = pa.chunked_array([chunk for column in texts.values() for chunk in column.chunks], pa.binary())
    unique = together.unique()
    words = [text.strip() for text in unique.to_pylist()]
    at = indices(together, unique)
    class_names = None
    if may_be_numbers and all(_INTEGER.fullmatch(word) for word in words):
        labels = check_labels(np.array([int(word) for word in words], ndmin=1), where)[at]
    elif b"" in words:
        raise SourceError(f"{where}: sample {int(np.argmax(at == words.index(b'')))} has an empty label")
    else:
        classes = ClassIds()
        ids = np.array([classes[word] for word in words], np.int32)
        labels, class_names = classes.final_labels(ids)[at], classes.sorted_names()
    ends = np.cumsum([len(column) for column in texts.values()])
    return dict(zip(texts, np.split(labels, ends[:-1]), strict=True)), class_names


def indices(wanted: pa.ChunkedArray, among: pa.Array | pa.ChunkedArray) -> Labels:
    """Where each entry first occurs (N,) int32, -1 for nowhere."""
    found: Labels = pc.fill_null(pc.index_in(wanted, value_set=among), -1).to_numpy()
    return found


def counted(what: str, count: int, example: str) -> str:
    """A message such as `links passed over: 3 (first: a/b)`."""
    return f"{what}: {count} (first: {example})"


@dataclass
class Tally:
    """Counts things that are alike and remembers the first by name."""

    what: str
    count: int = 0
    first: bytes = b""

    def add(self, name: bytes) -> None:
        self.first = name if not self.count else min(name, self.first)
        self.count += 1

    def notes(self) -> tuple[str, ...]:
        """One note, or none where nothing was counted."""
        return (counted(self.what, self.count, printable(self.first)),) if self.count else ()


def read_file(path: str | bytes) -> bytes | SampleError:
    """All bytes of a regular file, or the reason why they cannot be read."""
    try:
        # subtle: without O_NONBLOCK, opening a FIFO would wait for a writer for ever.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                return SampleError("not a regular file")
            if status.st_size > MAX_FILE_BYTES:
                return SampleError(f"{status.st_size} bytes are more than the {MAX_FILE_BYTES} allowed")
            return file.read()
    except OSError as error:
        return SampleError(f"cannot be read: {error.strerror or error}")
