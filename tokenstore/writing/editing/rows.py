"""The samples of one split of a new store, taken from the splits of other stores."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenstore.errors import DamageError
from tokenstore.format import LABELS, SHARD_MANIFEST, ArrayLayout, FileRecord, Skip, decode_records
from tokenstore.reading import SplitReader, StoreFiles
from tokenstore.reading.array import ArrayReader, Indices, Values
from tokenstore.reading.checked_files import samples_batches
from tokenstore.reading.row_numbers import RowNumbers
from tokenstore.writing.linked import StoredFile
from tokenstore.writing.rewrite import skips_of

__all__ = ["JoinedRows", "PickedRows"]


@dataclass(frozen=True)
class PickedRows:
    """Samples of one split in its order: all of them, or those of ascending row numbers."""

    split: SplitReader
    numbers: RowNumbers | None = None
    """The row numbers, each once; None for all samples."""
    labels: npt.NDArray[np.int32] | None = None
    """The new label of each label; None where labels stay."""
    has_skips: bool = True
    """True if the split's samples that are not in its store go with these."""

    def __len__(self) -> int:
        return len(self.split) if self.numbers is None else len(self.numbers)

    def rows(self, start: int, stop: int) -> Indices:
        """Return the row numbers (stop - start,) of neighbouring samples."""
        positions = np.arange(start, stop)
        return positions if self.numbers is None else self.numbers.at(positions)

    def run(self, start: int, stop: int) -> int | None:
        """Return the row number of sample `start` if those up to `stop` are neighbours, else None."""
        if self.numbers is None:
            return start
        first, last = self.numbers.at(np.array([start, stop - 1])).tolist()
        return first if last - first == stop - 1 - start else None

    def relabelled(self, labels: Values) -> Values:
        """Return the new labels of labels (n,); raises DamageError for one that has none."""
        if self.labels is None:
            return labels
        if labels.size and (int(labels.max()) >= len(self.labels) or int(labels.min()) < 0):
            raise DamageError(
                f"{self.split!r}: expected labels from 0 to {len(self.labels) - 1}, found "
                f"{labels.min()} to {labels.max()}. Check the store"
            )
        return self.labels[labels]

    def batches(self, start: int) -> Iterator[pa.RecordBatch]:
        """Yield the rows of the samples table from sample `start` on; raises DamageError."""
        if start >= len(self):
            return
        at = int(self.rows(start, start + 1)[0])
        for batch in samples_batches(self.split.store, self.split.name, at):
            if self.numbers is None:
                yield batch
            else:
                first, last = self.numbers.before(np.array([at, at + len(batch)])).tolist()
                if first < last:
                    yield batch.take(pa.array(self.rows(first, last) - at))
                at += len(batch)
                if last == len(self):
                    return

    def skips(self) -> list[Skip]:
        """Read the samples of the source that the split does not have; raises DamageError."""
        return skips_of(self.split) if self.has_skips else []


class _Run(NamedTuple):
    """Neighbouring samples of one split."""

    part: int
    row: int


class JoinedRows:
    """Picked samples of several splits, one after another, for one pass over them by `threads`."""

    def __init__(self, parts: Sequence[PickedRows], threads: int) -> None:
        self.parts, self._threads = tuple(parts), threads
        self._stops = np.cumsum([len(part) for part in self.parts])
        self._readers: dict[tuple[int, str], ArrayReader] = {}
        self._lock = Lock()

    def __len__(self) -> int:
        return int(self._stops[-1])

    def read_range(self, array: str, start: int, stop: int) -> Values:
        """Return values (stop - start, *shape) of an aligned array; several threads may do so at a time.

        Raises DamageError, and StorageError where remote storage does not answer.
        """
        values = []
        for place, first, last in self._by_part(start, stop):
            part, reader = self.parts[place], self._reader(place, array)
            row = part.run(first, last)
            if row is None:
                read = reader.read(part.rows(first, last))
            else:
                read = reader.read_range(row, row + last - first)
            values.append(part.relabelled(read) if array == LABELS else read)
        return values[0] if len(values) == 1 else np.concatenate(values)

    def read_at(self, array: str, numbers: Indices) -> Values:
        """Return values (m, *shape) of an aligned array at some samples (m,), ascending; see `read_range`."""
        values = []
        bounds = np.searchsorted(numbers, np.concatenate([[0], self._stops]))
        for place, (first, stop) in enumerate(itertools.pairwise(bounds.tolist())):
            if first < stop:
                part, before = self.parts[place], int(self._stops[place]) - len(self.parts[place])
                positions = numbers[first:stop] - before
                rows = positions if part.numbers is None else part.numbers.at(positions)
                values.append(self._reader(place, array).read(rows))
        return values[0] if len(values) == 1 else np.concatenate(values)

    def batches(self, start: int) -> Iterator[pa.RecordBatch]:
        """Yield the rows of the samples tables from sample `start` on; raises as `read_range` does."""
        for part in self.parts:
            yield from part.batches(start)
            start = max(0, start - len(part))

    def skips(self) -> list[Skip]:
        """Read the samples of the sources that no split has; raises DamageError."""
        return [skip for part in self.parts for skip in part.skips()]

    def whole_shard(self, array: str, layout: ArrayLayout, start: int, stop: int) -> StoredFile | None:
        """Return the stored shard of exactly the samples [start, stop) in a layout, or None."""
        run = self._run(array, start, stop)
        if run is None:
            return None
        reader = self._reader(run.part, array)
        stored, samples = reader.layout, stop - start
        shard, rest = divmod(run.row, stored.shard_samples)
        same = _same_chunks(stored, layout) and stored.shard_samples == layout.shard_samples
        whole = samples == stored.shard_samples or run.row + samples == stored.samples
        if not same or rest or not whole:
            return None
        store = self.parts[run.part].split.store
        path = f"{reader.name}/{stored.shard_file(shard)}"
        return StoredFile(store, path, self._record(store, reader.name, path, shard))

    def payloads(self, array: str, layout: ArrayLayout, start: int, stop: int) -> list[bytes] | None:
        """Return the stored payloads of the chunks with the samples [start, stop), which a chunk begins with.

        None stands for samples that are other chunks in their store. Raises DamageError.
        """
        run = self._run(array, start, stop)
        if run is None:
            return None
        reader, samples = self._reader(run.part, array), stop - start
        stored = reader.layout
        chunk, rest = divmod(run.row, stored.chunk_samples)
        whole = not samples % stored.chunk_samples or run.row + samples == stored.samples
        if not _same_chunks(stored, layout) or rest or not whole:
            return None
        return reader.payloads(chunk, chunk + -(-samples // stored.chunk_samples))

    def _run(self, array: str, start: int, stop: int) -> _Run | None:
        """Return the place of samples that are neighbours in one split, their values stored as they are."""
        places = list(self._by_part(start, stop))
        if len(places) != 1:
            return None
        place, first, last = places[0]
        row = self.parts[place].run(first, last)
        is_new = array == LABELS and self.parts[place].labels is not None
        return None if row is None or is_new else _Run(place, row)

    def places(self, start: int, stop: int) -> list[int]:
        """Return the numbers of the parts that have samples [start, stop)."""
        return [place for place, _, _ in self._by_part(start, stop)]

    def _by_part(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Yield the parts that have samples [start, stop): the place, and the first and last in the part."""
        first = int(np.searchsorted(self._stops, start, side="right"))
        for place in range(first, len(self.parts)):
            before = int(self._stops[place]) - len(self.parts[place])
            if before >= stop:
                return
            begin, end = max(start - before, 0), min(stop - before, len(self.parts[place]))
            if begin < end:
                yield place, begin, end

    def _reader(self, place: int, array: str) -> ArrayReader:
        with self._lock:
            if (place, array) not in self._readers:
                reader = self.parts[place].split.array(array).streamed(self._threads)
                for passed in [key for key in self._readers if key[0] < place - 1]:
                    del self._readers[passed]  # whoever still reads with it has it
                self._readers[place, array] = reader
            return self._readers[place, array]

    def _record(self, store: StoreFiles, array: str, path: str, shard: int) -> FileRecord:
        listed = store.manifest.files.get(path)
        return self._listed(store, array)[shard] if listed is None else listed

    @functools.lru_cache(maxsize=8)  # noqa: B019 (an object for one pass)
    def _listed(self, store: StoreFiles, array: str) -> list[FileRecord]:
        return list(decode_records(store.read_checked(f"{array}/{SHARD_MANIFEST}")))


def _same_chunks(stored: ArrayLayout, layout: ArrayLayout) -> bool:
    """Return True if a chunk of the same samples has the same bytes in both layouts, or bytes as good."""
    return (
        stored.column == layout.column
        and stored.chunk_samples == layout.chunk_samples
        and stored.codec.zarr == layout.codec.zarr
    )
