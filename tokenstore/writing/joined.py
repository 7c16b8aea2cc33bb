"""The samples of a split of several stores, one after another, read in a stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from threading import Lock

import numpy as np
import pyarrow as pa

from tokenstore.reading import SplitReader, StoreFiles
from tokenstore.reading.array import ArrayReader, Values
from tokenstore.reading.checked_files import samples_batches

_READERS = 4
"""The stores of which an array's readers stay open."""


class JoinedSplit:
    """The samples of one split of all `stores`, in their order, for one pass over them by `threads`."""

    def __init__(self, stores: Sequence[StoreFiles], name: str, threads: int) -> None:
        self.stores, self.name, self.threads = stores, name, threads
        self._sizes = [store.manifest.splits[name].samples for store in stores]
        self._stops = np.cumsum(self._sizes)
        self._readers: dict[tuple[int, str], ArrayReader] = {}
        self._lock = Lock()

    def __len__(self) -> int:
        return int(self._stops[-1])

    def read_range(self, array: str, start: int, stop: int) -> Values:
        """Return values (stop - start, *shape) of an aligned array; several threads may do so at a time.

        Raises DamageError, and StorageError where remote storage does not answer.
        """
        values = []
        for place in self.places(start, stop):
            before = int(self._stops[place]) - self._sizes[place]
            first, last = max(start - before, 0), min(stop - before, self._sizes[place])
            if first < last:
                values.append(self._reader(place, array).read_range(first, last))
        return values[0] if len(values) == 1 else np.concatenate(values)

    def places(self, start: int, stop: int) -> range:
        """Return the numbers of the stores that have samples [start, stop)."""
        first = int(np.searchsorted(self._stops, start, side="right"))
        return range(first, int(np.searchsorted(self._stops, stop, side="left")) + 1)

    def batches(self, start: int) -> Iterator[pa.RecordBatch]:
        """Yield the rows of the samples tables from row `start` on; raises as `read_range` does."""
        for store, size in zip(self.stores, self._sizes, strict=True):
            if start < size:
                yield from samples_batches(store, self.name, start)
            start = max(0, start - size)

    def _reader(self, place: int, array: str) -> ArrayReader:
        with self._lock:
            reader = self._readers.get((place, array))
            if reader is None:
                split = SplitReader(self.stores[place], self.name)
                reader = split.array(array).streamed(self.threads)
                self._readers[place, array] = reader
                for passed in [key for key in self._readers if key[0] <= place - _READERS]:
                    del self._readers[passed]  # whoever still reads with it has it
            return reader
