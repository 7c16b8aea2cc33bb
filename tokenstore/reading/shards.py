"""The sources of chunks' checked bytes: their protocol, and shards in memory.

Shards on this machine's disk are in `local_shards.py`, those that have to be fetched in `fetching.py`.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from tokenstore.errors import DamageError
from tokenstore.format import ArrayLayout
from tokenstore.reading.store_files import StoreFiles

__all__ = ["ArrayFiles", "InMemoryShards", "Payloads", "Pieces", "Shards"]

Bytes: TypeAlias = npt.NDArray[np.uint8]
Indices: TypeAlias = npt.NDArray[np.int64]
Check: TypeAlias = Callable[[int, Bytes], None]
"""A function that raises CodecError where a chunk's payload cannot hold the chunk's samples."""

RUN_NBYTES = 2**17
"""The bytes that are fetched at once, about: neighbouring chunks are joined until they have so many."""
_MOST_RUNS = 2**20
PREFETCH_CHUNKS = 256
"""The most chunks that are read together where all of an array are read in turn."""
_PREFETCH_NBYTES = 2**26
"""The bytes of chunks that are read together, about."""


class ArrayFiles:
    """The files of one aligned array: its layout, and its shards' paths.

    Raises ManifestError and DamageError where the array's metadata is bad.
    """

    def __init__(self, store: StoreFiles, name: str) -> None:
        self.store = store
        self.name = name
        self.layout: ArrayLayout = store.layout(name)
        self.chunks = -(-self.layout.samples // self.layout.chunk_samples)

    @cached_property
    def nbytes(self) -> Indices:
        """The bytes of each shard that the manifest says: (shards,)."""
        return self.store.shard_nbytes(self.name)

    @cached_property
    def run_chunks(self) -> int:
        """The chunks of a run: neighbours that are fetched at once where most of them are needed."""
        nbytes = int(self.nbytes.sum())
        return max(1, round(RUN_NBYTES * self.chunks / max(1, nbytes)))

    @property
    def joined_runs(self) -> int:
        """The most neighbouring runs that `run_starts` joins: 1 up to about 2**20 runs."""
        return max(1, -(-self.chunks // (_MOST_RUNS * self.run_chunks)))

    @cached_property
    def run_starts(self) -> Indices:
        """The first sample of every run of chunks, and the number of samples: (runs + 1,).

        Neighbouring runs are joined where an array would have more than about 2**20 of them.
        """
        per_shard = self.layout.chunks_per_shard
        run_chunks = max(self.run_chunks, -(-self.chunks // _MOST_RUNS))
        shards = np.arange(0, self.layout.shards * per_shard, per_shard)
        first = (shards[:, None] + np.arange(0, per_shard, run_chunks)).reshape(-1)
        return np.append(first[first < self.chunks] * self.layout.chunk_samples, self.layout.samples)

    def chunks_in_turn(self) -> Iterator[Indices]:
        """Yield the numbers of all chunks, as many at a time as are read together."""
        mean_nbytes = int(self.nbytes.sum()) // max(1, self.chunks)
        size = max(1, min(PREFETCH_CHUNKS, _PREFETCH_NBYTES // max(1, mean_nbytes)))
        for start in range(0, self.chunks, size):
            yield np.arange(start, min(start + size, self.chunks))

    def path(self, shard: int) -> str:
        """Return the path of a shard in the store."""
        before, after = self._path_parts
        return f"{before}{shard}{after}"

    @cached_property
    def _path_parts(self) -> tuple[str, str]:
        """The parts of every shard's path before and after its number."""
        folder, _, zeros = self.layout.shard_file(0).partition("0")
        return f"{self.name}/{folder}", zeros

    def record_nbytes(self, shard: int) -> int:
        """Return the bytes of a shard that the manifest says."""
        return int(self.nbytes[shard])

    def where(self, chunk: int, row: int | None = None) -> str:
        """Return shard, chunk and the chunk's samples, or the sample in one row of it, for a message."""
        start, stop = self.layout.chunk_span(chunk)
        shard, position = divmod(chunk, self.layout.chunks_per_shard)
        samples = f"samples {start} to {stop - 1}" if row is None else f"sample {start + row}"
        return f"{self.store.storage}/{self.name} shard {shard} chunk {position} ({samples})"

    def damage(self, chunk: int, error: Exception, row: int | None = None) -> DamageError:
        """Return the error that says where a chunk, or one row of it, is damaged.

        Raises StoreChangedError where the store is another one than that which was opened.
        """
        self.store.rule_out_change()
        return self.unexplained_damage(chunk, error, row)

    def unexplained_damage(self, chunk: int, error: Exception, row: int | None = None) -> DamageError:
        """Return the same error, though the store may have changed: for bytes that are asked for again."""
        return DamageError(f"{self.where(chunk, row)}: {error}. Restore the shard from a copy")


class Payloads:
    """The checked payloads of some chunks. They keep their place in memory as long as this object lives.

    `lasting` (m,) bool says which of them keep it as long as the shards' object lives; none do by default.
    """

    def __init__(
        self, chunks: Indices, payloads: list[Bytes], lasting: npt.NDArray[np.bool_] | None = None
    ) -> None:
        self.chunks = chunks
        self.payloads = payloads
        self.lasting = np.zeros(len(payloads), np.bool_) if lasting is None else lasting
        self.addresses = np.array([payload.__array_interface__["data"][0] for payload in payloads], np.uint64)

    def places(self, chunks: Indices) -> Indices | None:
        """Return the positions of chunks (m,) in `payloads`; None where one is missing."""
        if not len(self.chunks):
            return None
        places = np.searchsorted(self.chunks, chunks)
        np.minimum(places, len(self.chunks) - 1, out=places)
        return places if np.array_equal(self.chunks[places], chunks) else None


class Pieces:
    """The bytes of some of `count` views or samples, `nbytes` each, in memory as long as this object lives.

    `at` (k,) are the places among all of those that there is room for.
    """

    def __init__(self, count: int, at: Indices, nbytes: int) -> None:
        self._at, self._nbytes = at, nbytes
        self._bytes = np.empty(len(at) * nbytes, np.uint8)
        self._is_read = np.zeros(len(at), np.bool_)
        self._count = count

    def room(self, number: int) -> memoryview:
        """Return the memory of one of the places `at`, which counts as read from now on."""
        self._is_read[number] = True
        return self._bytes.data[number * self._nbytes : (number + 1) * self._nbytes]

    @property
    def addresses(self) -> npt.NDArray[np.uint64]:
        """The addresses (count,) of the bytes that were read; 0 for all others."""
        addresses = np.zeros(self._count, np.uint64)
        read = np.flatnonzero(self._is_read)
        first = self._bytes.__array_interface__["data"][0]
        addresses[self._at[read]] = np.uint64(first) + (read * self._nbytes).astype(np.uint64)
        return addresses


class Shards(Protocol):
    """A source of checked payloads of an array's chunks. Safe to share between threads and after a fork."""

    @property
    def fetches(self) -> bool:
        """True if payloads are fetched from another machine, or out of a compressed file."""

    def keeps(self, chunk: int) -> bool:
        """Return True if a payload that was read keeps its place in memory as long as this object lives."""

    def payload(self, chunk: int) -> Bytes:
        """Return a chunk's bytes without their checksum, once it is verified.

        Like all methods, it raises DamageError, and StoreChangedError.
        """

    def payloads(self, chunks: Indices) -> Payloads:
        """Return the payloads of chunks (m,), ascending and each once; raises DamageError."""

    def pieces(self, chunks: Indices, offsets: Indices, nbytes: int) -> Pieces | None:
        """Read `nbytes` bytes at offsets (m,) of payloads, of those chunks (m,) that need not be read whole.

        These were verified in the file as it is now. Returns None if there are none. Raises DamageError.
        """
        return None

    def read_once(self, chunks: Indices) -> Payloads:
        """Return the same, for a reader of all chunks in turn, who will not need them again."""

    def open(self, shard: int) -> None:
        """Raise DamageError unless a shard has the size that the manifest says, and a valid index."""

    def reserve_cache(self, nbytes: int) -> None:
        """Let at least so many bytes of fetched chunks stay in memory for later reads."""


class InMemoryShards(Shards):
    """All chunks of an array in memory, one after another.

    `room` is the bytes of all `payloads` at most.
    """

    fetches = False

    def __init__(self, chunks: int, room: int, payloads: Iterable[Bytes]) -> None:
        self._pool = np.empty(room, np.uint8)
        self._starts = np.zeros(chunks + 1, np.int64)
        for chunk, payload in enumerate(payloads):
            start = self._starts[chunk]
            stop = start + len(payload)
            self._pool[start:stop] = payload
            self._starts[chunk + 1] = stop

    @property
    def nbytes(self) -> int:
        """The bytes of all payloads."""
        return int(self._starts[-1])

    @override
    def keeps(self, chunk: int) -> bool:
        return True

    @override
    def payload(self, chunk: int) -> Bytes:
        return self._pool[self._starts[chunk] : self._starts[chunk + 1]]

    @override
    def payloads(self, chunks: Indices) -> Payloads:
        payloads = [self.payload(chunk) for chunk in chunks.tolist()]
        return Payloads(chunks, payloads, np.ones(len(payloads), np.bool_))

    @override
    def read_once(self, chunks: Indices) -> Payloads:
        return self.payloads(chunks)

    @override
    def open(self, shard: int) -> None:
        pass  # every chunk was verified on its way here

    @override
    def reserve_cache(self, nbytes: int) -> None:
        pass


def all_payloads(files: ArrayFiles, shards: Shards) -> Iterator[Bytes]:
    """Yield every chunk's payload, in order, a few of them in memory at a time; raises DamageError."""
    for numbers in files.chunks_in_turn():
        yield from shards.read_once(numbers).payloads


def drop_oldest(cache: OrderedDict[int, Any]) -> None:
    """Remove the entry that was added first, while other threads may empty the cache."""
    with contextlib.suppress(KeyError):
        cache.popitem(last=False)
