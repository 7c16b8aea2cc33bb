"""The sources of chunks' checked bytes: shards on this machine's disk, or in its memory.

Shards that have to be fetched are in `fetching.py`.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from typing_extensions import override

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

from tokenstore.errors import CodecError, DamageError
from tokenstore.format import ArrayLayout, sharding
from tokenstore.reading.store_files import StoreFiles
from tokenstore.storage.regular import read_into

__all__ = ["ArrayFiles", "InMemoryShards", "LocalShards", "Payloads", "Shards"]

Bytes: TypeAlias = npt.NDArray[np.uint8]
Indices: TypeAlias = npt.NDArray[np.int64]
Check: TypeAlias = Callable[[int, Bytes], None]
"""A function that raises CodecError where a chunk's payload cannot hold the chunk's samples."""

RUN_NBYTES = 2**17
"""The bytes that are fetched at once, about: neighbouring chunks are joined until they have so many."""
_MOST_RUNS = 2**20
PREFETCH_CHUNKS = 256
"""The chunks that are fetched together where all of an array are read in turn."""


def _max_open_shards() -> int:
    """Return a quarter of the file descriptors that this process may have: several arrays can be open."""
    if resource is None:
        return 64
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 256 if limit == resource.RLIM_INFINITY else max(8, min(256, limit // 4))


MAX_OPEN_SHARDS = _max_open_shards()
"""The most mapped shards of tokens; each has a file descriptor."""
MAX_OPEN_COLUMN_SHARDS = 4
"""The most mapped shards of any other array, whose decoded chunks stay in memory instead."""


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
        return max(1, round(RUN_NBYTES * self.chunks / max(1, nbytes)), -(-self.chunks // _MOST_RUNS))

    @cached_property
    def run_starts(self) -> Indices:
        """The first sample of every run of chunks, and the number of samples: (runs + 1,)."""
        per_shard = self.layout.chunks_per_shard
        shards = np.arange(0, self.layout.shards * per_shard, per_shard)
        first = (shards[:, None] + np.arange(0, per_shard, self.run_chunks)).reshape(-1)
        return np.append(first[first < self.chunks] * self.layout.chunk_samples, self.layout.samples)

    def path(self, shard: int) -> str:
        """Return the path of a shard in the store."""
        return f"{self.name}/{self.layout.shard_file(shard)}"

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
    """The checked payloads of some chunks. They keep their place in memory as long as this object lives."""

    def __init__(self, chunks: Indices, payloads: list[Bytes]) -> None:
        self.chunks = chunks
        self.payloads = payloads
        self.addresses = np.array([payload.__array_interface__["data"][0] for payload in payloads], np.uint64)

    def places(self, chunks: Indices) -> Indices | None:
        """Return the positions of chunks (m,) in `payloads`; None where one is missing."""
        if not len(self.chunks):
            return None
        places = np.searchsorted(self.chunks, chunks)
        np.minimum(places, len(self.chunks) - 1, out=places)
        return places if np.array_equal(self.chunks[places], chunks) else None


class Shards(Protocol):
    """A source of checked payloads of an array's chunks. Safe to share between threads and after a fork."""

    @property
    def stable(self) -> bool:
        """True if a payload, once read, keeps its place in memory as long as this object lives."""

    @property
    def fetches(self) -> bool:
        """True if payloads are fetched from another machine, or out of a compressed file."""

    def payload(self, chunk: int) -> Bytes:
        """Return a chunk's bytes without their checksum, once it is verified.

        Like all methods, it raises DamageError, and StoreChangedError.
        """

    def payloads(self, chunks: Indices) -> Payloads:
        """Return the payloads of chunks (m,), ascending and each once; raises DamageError."""

    def open(self, shard: int) -> None:
        """Raise DamageError unless a shard has the size that the manifest says, and a valid index."""

    def reserve_cache(self, nbytes: int) -> None:
        """Let at least so many bytes of fetched chunks stay in memory for later reads."""


class LocalShards(Shards):
    """The shards on this machine's disk, mapped or read whole. A chunk is verified on its first access."""

    fetches = False

    def __init__(self, files: ArrayFiles, check: Check, max_open: int, *, mapped: bool = True) -> None:
        self._files = files
        self._check = check
        self._max_open = max_open
        self._mapped = mapped
        self._verified = np.zeros(files.chunks, np.bool_)
        self._open: OrderedDict[int, _LocalShard] = OrderedDict()

    @property
    @override
    def stable(self) -> bool:
        return self._files.layout.shards <= self._max_open

    @override
    def payload(self, chunk: int) -> Bytes:
        number, position = divmod(chunk, self._files.layout.chunks_per_shard)
        stored = self._shard(number).chunk(position)
        if not self.stable:
            stored = stored.copy()  # a view would keep its shard's file open
        if self._verified[chunk]:
            return stored[: -sharding.CHECKSUM_NBYTES]
        try:
            payload = sharding.checked_payload(stored)
            self._check(chunk, payload)
        except CodecError as error:
            raise self._files.damage(chunk, error) from error
        self._verified[chunk] = True
        return payload

    @override
    def payloads(self, chunks: Indices) -> Payloads:
        return Payloads(chunks, [self.payload(chunk) for chunk in chunks.tolist()])

    @override
    def open(self, shard: int) -> None:
        self._shard(shard)

    @override
    def reserve_cache(self, nbytes: int) -> None:
        pass

    def _shard(self, number: int) -> _LocalShard:
        shard = self._open.get(number)
        if shard is None:
            try:
                opened = _LocalShard(self._files, number, self._mapped)
            except DamageError:
                self._files.store.rule_out_change()
                raise
            # After it: a store that was replaced before the shard was opened has a new root by now.
            self._files.store.check_unchanged()
            # subtle: the first thread's shard stays, since addresses into its mapping may be in use
            shard = self._open.setdefault(number, opened)
            while len(self._open) > self._max_open:
                drop_oldest(self._open)
        return shard


class _LocalShard:
    def __init__(self, files: ArrayFiles, number: int, mapped: bool) -> None:
        storage, path = files.store.storage, files.path(number)
        where, expected = f"{storage}/{path}", files.record_nbytes(number)
        try:
            file = storage.open_file(path)
        except FileNotFoundError as error:
            raise DamageError(f"{where}: the shard is missing. Restore it from a copy") from error
        assert file is not None, "only files that can be mapped are read here"
        descriptor, offset, size = file
        try:
            if size != expected or size < files.layout.index_nbytes:
                raise DamageError(
                    f"{where}: expected {expected} bytes, found {size}. Restore the shard from a copy"
                )
            self._bytes = (_mapped if mapped else _read)(where, descriptor, offset, size)
        finally:
            os.close(descriptor)
        index = self._bytes[-files.layout.index_nbytes :]
        self._index = sharding.decode_index(index, files.layout.shard_chunks(number), size, where)

    def chunk(self, position: int) -> Bytes:
        """Return a chunk's stored bytes, checksum included."""
        offset, length = self._index[position].tolist()
        return self._bytes[offset : offset + length]


class InMemoryShards(Shards):
    """All chunks of an array in memory, one after another.

    `room` is the bytes of all `payloads` at most.
    """

    stable = True
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
    def payload(self, chunk: int) -> Bytes:
        return self._pool[self._starts[chunk] : self._starts[chunk + 1]]

    @override
    def payloads(self, chunks: Indices) -> Payloads:
        return Payloads(chunks, [self.payload(chunk) for chunk in chunks.tolist()])

    @override
    def open(self, shard: int) -> None:
        pass  # every chunk was verified on its way here

    @override
    def reserve_cache(self, nbytes: int) -> None:
        pass


def all_payloads(files: ArrayFiles, shards: Shards) -> Iterator[Bytes]:
    """Yield every chunk's payload, in order, a few of them in memory at a time; raises DamageError."""
    for start in range(0, files.chunks, PREFETCH_CHUNKS):
        yield from shards.payloads(np.arange(start, min(start + PREFETCH_CHUNKS, files.chunks))).payloads


def drop_oldest(cache: OrderedDict[int, Any]) -> None:
    """Remove the entry that was added first, while other threads may empty the cache."""
    with contextlib.suppress(KeyError):
        cache.popitem(last=False)


def _read(where: str, descriptor: int, offset: int, size: int) -> Bytes:
    data = np.empty(size, np.uint8)
    read = read_into(descriptor, offset, data.data)
    if read < size:
        raise DamageError(f"{where}: expected {size} bytes, found {read}. Restore the shard from a copy")
    return data


def _mapped(where: str, descriptor: int, offset: int, size: int) -> Bytes:
    start = offset - offset % mmap.ALLOCATIONGRANULARITY
    try:
        pages = mmap.mmap(descriptor, offset + size - start, access=mmap.ACCESS_READ, offset=start)
    except ValueError as error:  # the file has shrunk
        raise DamageError(f"{where}: {error}. Restore the shard from a copy") from error
    return np.frombuffer(pages, np.uint8)[offset - start :]
