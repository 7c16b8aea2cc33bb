"""The reader of one split, with all its aligned arrays."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt

from tokenstore.codecs import sample_nbytes
from tokenstore.errors import ManifestError, StoreError, did_you_mean
from tokenstore.format import LABELS, TOKENS, Column, Manifest
from tokenstore.reading.array import ArrayReader, Indices, Values
from tokenstore.reading.checked_files import samples_batches
from tokenstore.reading.open_array import array_reader
from tokenstore.reading.shards import Payloads
from tokenstore.reading.store_files import StoreFiles

__all__ = ["SplitReader"]

_SPARE = 2
"""The factor by which the samples of a window may be longer than those of the split."""


class SplitReader:
    """A reader of one split: its tokens and every array aligned with them, or those of `arrays`.

    Raises StoreError for a split that the store does not have, ManifestError for one without tokens.
    """

    def __init__(self, store: StoreFiles, split: str, arrays: Sequence[str] | None = None) -> None:
        if split not in store.splits:
            raise StoreError(
                f"{store.storage}: no split {split!r}; it has {', '.join(store.splits) or 'none'}"
                f"{did_you_mean(split, store.splits)}"
            )
        self.store = store
        self.name = split
        self._names = arrays
        names = store.split_arrays(split) if arrays is None else arrays
        self.arrays = {name: array_reader(store, f"{split}/{name}") for name in names}
        if TOKENS not in self.arrays:
            raise ManifestError(
                f"{store.storage}/{split}: expected the array {TOKENS} in the manifest's files"
            )
        self._in_memory: WeakValueDictionary[tuple[str, ...], SplitReader] = WeakValueDictionary()

    def __reduce__(self) -> tuple[type[SplitReader], tuple[Any, ...]]:
        return SplitReader, (self.store, self.name, self._names)

    def __len__(self) -> int:
        return self.store.manifest.splits[self.name].samples

    def __str__(self) -> str:
        return f"{self.store.storage.url}/{self.name}"

    def __repr__(self) -> str:
        return f"SplitReader({self}, {len(self):,} samples)"

    def __getitem__(self, index: int | slice | Sequence[int] | Indices) -> Values:
        """Return the codes of one sample (*grid), or of a slice or a list of indices (m, *grid).

        Raises IndexError, DamageError, and StorageError where remote storage does not answer.
        """
        if index is None:  # numpy's new axis
            raise IndexError("expected an integer, a slice or a list of integers, found None")
        return self.read(TOKENS, index)

    def array(self, name: str) -> ArrayReader:
        """Return the reader of an aligned array; raises StoreError where the split has none of that name."""
        if name not in self.arrays:
            raise StoreError(
                f"{self.store.storage}/{self.name}: no array {name!r}; it has {', '.join(self.arrays)}"
                f"{did_you_mean(name, self.arrays)}"
            )
        return self.arrays[name]

    def read(
        self,
        name: str,
        indices: object = None,
        out: Values | None = None,
        prefetched: Mapping[str, Payloads | None] | None = None,
        view: object = None,
    ) -> Values:
        """Return values (m, *shape) of an aligned array at `indices` (m,), by default all.

        A slice gives its samples, a single integer the values (*shape) of one. `out` and `prefetched` are as
        in `ArrayReader.read`. `view`, an integer or integers (m,), gives one view of each sample alone:
        codes (m, *grid). A sample without views is its view 0.

        Texts and lists are an array (m,) of objects: `str`, or arrays of numbers. Raises IndexError,
        StoreError, DamageError, and StorageError where remote storage does not answer.
        """
        fetched = None if prefetched is None else prefetched.get(name)
        return self.array(name).read(indices, out, fetched, view)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the aligned arrays, `tokens` first."""
        return tuple(self.arrays)

    def column(self, name: str) -> Column:
        """Return the dtype, the shape and the form of the samples of an aligned array; raises StoreError."""
        return self.array(name).layout.column

    def view_column(self, name: str) -> Column:
        """Return what `column` does, for one view of each sample."""
        layout = self.array(name).layout
        return Column(layout.dtype, layout.view_shape, layout.form)

    @cached_property
    def labels(self) -> npt.NDArray[np.int32] | None:
        """All labels (N,), or None where the split has none."""
        if LABELS not in self.arrays:
            return None
        return self.arrays[LABELS].read_range(0, len(self))

    @property
    def base(self) -> SplitReader:
        """The split itself: it is no subset of other rows."""
        return self

    @property
    def indices(self) -> None:
        """None: a split has all of its samples."""
        return None

    @property
    def row_numbers(self) -> None:
        """None, as `indices`."""
        return None

    @property
    def splits(self) -> tuple[SplitReader, ...]:
        """The split, alone."""
        return (self,)

    def by_split(self, indices: Indices) -> Iterator[tuple[int, Indices, Indices]]:
        """Yield the samples at `indices` (m,) as `Rows.by_split` does: they are all of this split."""
        yield 0, np.arange(len(indices)), indices

    @property
    def manifests(self) -> tuple[Manifest, ...]:
        """The manifest of the split's store, alone."""
        return (self.store.manifest,)

    @property
    def fingerprint(self) -> str:
        """An identity of the samples, which does not depend on where the store is."""
        return f"{self.store.root_digest}/{self.name}"

    @property
    def is_local(self) -> bool:
        """True if all tokens are on this machine."""
        return self.arrays[TOKENS].is_local

    @cached_property
    def starts(self) -> Indices:
        """The first sample of every run that is fetched at once, and the number of samples: (runs + 1,)."""
        return self.arrays[TOKENS].files.run_starts

    @property
    def joined(self) -> int:
        """The most neighbouring runs that count as one in `starts`: 1 up to about 2**20 runs."""
        return self.arrays[TOKENS].files.joined_runs

    @property
    def equal_runs(self) -> tuple[int, int, int]:
        """The samples of a shard, of each of its runs but the last, and of a chunk."""
        files = self.arrays[TOKENS].files
        chunk = files.layout.chunk_samples
        return files.layout.chunks_per_shard * chunk, files.run_chunks * chunk, chunk

    def prefetch(
        self, indices: Indices, columns: Sequence[str] = (TOKENS,)
    ) -> Mapping[str, Payloads | None] | None:
        """Fetch columns of samples before they are read; returns None where nothing has to be fetched.

        Raises DamageError, and StorageError where remote storage does not answer.
        """
        fetched = {name: self.arrays[name].prefetch(indices) for name in columns}
        return None if all(payloads is None for payloads in fetched.values()) else fetched

    def reserve_cache(self, samples: int, columns: Sequence[str] = (TOKENS,)) -> None:
        """Let the fetched chunks of so many samples stay in memory for later reads."""
        for name in columns:
            array = self.arrays[name]
            if name == TOKENS:
                codes = math.prod(array.layout.view_shape)
                nbytes = samples * array.layout.views * sample_nbytes(codes, self._codebook_size)
            else:  # of samples that may be longer than most
                nbytes = samples * _SPARE * int(array.files.nbytes.sum()) // max(1, len(self))
            array.reserve_cache(nbytes)

    @property
    def _codebook_size(self) -> int:
        return self.store.manifest.codebook_size

    def in_memory(self, columns: Sequence[str]) -> SplitReader:
        """Return the same split with some of its arrays, compressed, in this process's memory.

        Raises StoreError for an array that the split does not have, and DamageError.
        """
        names = tuple(sorted(set(columns)))
        split = self._in_memory.get(names)  # several views of a split share it
        if split is None:
            split = self._in_memory[names] = SplitReader(self.store, self.name, self._names)
            split.arrays.update({name: self.array(name).in_memory() for name in names})
        return split

    def samples_table(self) -> Any:
        """Return the origin of every sample as a `pyarrow.Table` of N rows; raises DamageError."""
        import pyarrow as pa

        from tokenstore.format import SAMPLES_SCHEMA, read_table

        parts = [
            read_table(self.store.read_checked(path), SAMPLES_SCHEMA, rows, f"{self.store.storage}/{path}")
            for path, rows in self.store.samples_parts(self.name)
        ]
        return parts[0] if len(parts) == 1 else pa.concat_tables([SAMPLES_SCHEMA.empty_table(), *parts])

    def samples_batches(self) -> Iterator[Any]:
        """Yield the same rows in order, as `pyarrow.RecordBatch`es, in memory that does not grow with N.

        Raises DamageError, and StorageError where remote storage does not answer.
        """
        return samples_batches(self.store, self.name)
