"""Where a chunk's checked bytes come from: shards that this machine's disk holds, or its memory.

Shards that have to be fetched are in `fetching.py`.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

from tokenstore.errors import CodecError, DamageError
from tokenstore.format import sharding
from tokenstore.format.layout import ArrayLayout
from tokenstore.reading.store_files import Store

__all__ = ["ArrayFiles", "Held", "HeldShards", "LocalShards", "Shards"]

Bytes: TypeAlias = npt.NDArray[np.uint8]
Indices: TypeAlias = npt.NDArray[np.int64]
Check: TypeAlias = Callable[[int, Bytes], None]
"""Raises CodecError where a chunk's payload cannot hold the chunk's samples."""

RUN_NBYTES = 2**17
"""What is fetched at once, about: neighbouring chunks are joined until they have so many bytes."""
_MOST_RUNS = 2**20
HELD_CHUNKS = 256


def _max_open_shards() -> int:
    """A quarter of the file descriptors that this process may have, so that several arrays can be open."""
    if resource is None:
        return 64
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 256 if limit == resource.RLIM_INFINITY else max(8, min(256, limit // 4))


MAX_OPEN_SHARDS = _max_open_shards()
"""Mapped shards of tokens; each holds a file descriptor."""
MAX_OPEN_COLUMN_SHARDS = 4
"""Mapped shards of any other array: its decoded chunks are kept instead."""


class ArrayFiles:
    """The files of one aligned array: its layout, and what its shards are called."""

    def __init__(self, store: Store, name: str) -> None:
        self.store = store
        self.name = name
        self.layout: ArrayLayout = store.layout(name)
        self.chunks = -(-self.layout.samples // self.layout.chunk_samples)

    @cached_property
    def run_chunks(self) -> int:
        """Chunks that are fetched at once where most of them are wanted."""
        nbytes = sum(self.record_nbytes(shard) for shard in range(self.layout.shards))
        return max(1, round(RUN_NBYTES * self.chunks / max(1, nbytes)), -(-self.chunks // _MOST_RUNS))

    @cached_property
    def run_starts(self) -> Indices:
        """First sample of every run of chunks, and the number of samples: (runs + 1,)."""
        per_shard = self.layout.chunks_per_shard
        shards = np.arange(0, self.layout.shards * per_shard, per_shard)
        first = (shards[:, None] + np.arange(0, per_shard, self.run_chunks)).reshape(-1)
        return np.append(first[first < self.chunks] * self.layout.chunk_samples, self.layout.samples)

    def path(self, shard: int) -> str:
        return f"{self.name}/{self.layout.shard_file(shard)}"

    def record_nbytes(self, shard: int) -> int:
        """Bytes of a shard, as the manifest has it."""
        return self.store.record(self.path(shard)).size

    def where(self, chunk: int, row: int | None = None) -> str:
        """Shard, chunk and its samples, or the one that is a row of it, for a message."""
        start, stop = self.layout.chunk_span(chunk)
        shard, position = divmod(chunk, self.layout.chunks_per_shard)
        samples = f"samples {start} to {stop - 1}" if row is None else f"sample {start + row}"
        return f"{self.store.storage}/{self.name} shard {shard} chunk {position} ({samples})"

    def damage(self, chunk: int, error: Exception, row: int | None = None) -> DamageError:
        return DamageError(f"{self.where(chunk, row)}: {error}. Restore the shard from a copy")


class Held:
    """Checked payloads of some chunks; they stay where they are in memory as long as this lives."""

    def __init__(self, chunks: Indices, payloads: list[Bytes]) -> None:
        self.chunks = chunks
        self.payloads = payloads
        self.addresses = np.array([payload.__array_interface__["data"][0] for payload in payloads], np.uint64)

    def places(self, chunks: Indices) -> Indices | None:
        """Where chunks (m,) are among these, or None where one is not."""
        if not len(self.chunks):
            return None
        places = np.searchsorted(self.chunks, chunks)
        np.minimum(places, len(self.chunks) - 1, out=places)
        return places if np.array_equal(self.chunks[places], chunks) else None


class Shards(Protocol):
    """Checked payloads of an array's chunks. Safe to share between threads and after a fork."""

    @property
    def stable(self) -> bool:
        """Whether a payload, once given, stays where it is in memory as long as this lives."""

    def payload(self, chunk: int) -> Bytes:
        """A chunk's bytes without their checksum, which is right; raises DamageError."""

    def hold(self, chunks: Indices) -> Held:
        """Payloads of chunks (m,), ascending and each once; raises DamageError."""

    def open(self, shard: int) -> None:
        """Raises DamageError unless a shard's size and index are as promised."""


class LocalShards:
    """Shards of this machine's disk, mapped or read whole; a chunk is checked when it is first touched."""

    def __init__(self, files: ArrayFiles, check: Check, max_open: int, *, mapped: bool = True) -> None:
        self._files = files
        self._check = check
        self._max_open = max_open
        self._mapped = mapped
        self._verified = np.zeros(files.chunks, np.bool_)
        self._open: OrderedDict[int, _LocalShard] = OrderedDict()

    @property
    def stable(self) -> bool:
        return self._files.layout.shards <= self._max_open

    def payload(self, chunk: int) -> Bytes:
        number, position = divmod(chunk, self._files.layout.chunks_per_shard)
        stored = self._shard(number).chunk(position)
        if not self.stable:
            stored = stored.copy()  # or it would keep its shard's file open
        if self._verified[chunk]:
            return stored[: -sharding.CHECKSUM_NBYTES]
        try:
            payload = sharding.checked_payload(stored)
            self._check(chunk, payload)
        except CodecError as error:
            raise self._files.damage(chunk, error) from error
        self._verified[chunk] = True
        return payload

    def hold(self, chunks: Indices) -> Held:
        return Held(chunks, [self.payload(chunk) for chunk in chunks.tolist()])

    def open(self, shard: int) -> None:
        self._shard(shard)

    def _shard(self, number: int) -> _LocalShard:
        shard = self._open.get(number)
        if shard is None:
            # subtle: the first thread's stays, since addresses into its mapping may be in use
            shard = self._open.setdefault(number, _LocalShard(self._files, number, self._mapped))
            while len(self._open) > self._max_open:
                drop_oldest(self._open)
        return shard


class _LocalShard:
    def __init__(self, files: ArrayFiles, number: int, mapped: bool) -> None:
        storage, path = files.store.storage, files.path(number)
        where, expected = f"{storage}/{path}", files.record_nbytes(number)
        try:
            region = storage.region(path)
        except FileNotFoundError as error:
            raise DamageError(f"{where}: the shard is missing. Restore it from a copy") from error
        assert region is not None, "only files that can be mapped are read here"
        size = region[2]
        if size != expected or size < files.layout.index_nbytes:
            raise DamageError(
                f"{where}: expected {expected} bytes, found {size}. Restore the shard from a copy"
            )
        self._bytes = _mapped(*region) if mapped else _read(*region)
        index = self._bytes[-files.layout.index_nbytes :]
        self._index = sharding.decode_index(index, files.layout.shard_chunks(number), size, where)

    def chunk(self, position: int) -> Bytes:
        """A chunk's stored bytes, checksum included."""
        offset, length = self._index[position].tolist()
        return self._bytes[offset : offset + length]


class HeldShards:
    """All chunks of an array in memory, one after another."""

    stable = True

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
        return int(self._starts[-1])

    def payload(self, chunk: int) -> Bytes:
        return self._pool[self._starts[chunk] : self._starts[chunk + 1]]

    def hold(self, chunks: Indices) -> Held:
        return Held(chunks, [self.payload(chunk) for chunk in chunks.tolist()])

    def open(self, shard: int) -> None:
        """Nothing to do: every chunk was checked on its way here."""


def all_payloads(files: ArrayFiles, shards: Shards) -> Iterable[Bytes]:
    """Every chunk's payload, in order, a few held at a time."""
    for start in range(0, files.chunks, HELD_CHUNKS):
        yield from shards.hold(np.arange(start, min(start + HELD_CHUNKS, files.chunks))).payloads


def drop_oldest(cache: OrderedDict[int, Any]) -> None:
    with contextlib.suppress(KeyError):  # other threads have emptied it
        cache.popitem(last=False)


def _read(path: str, offset: int, size: int) -> Bytes:
    with Path(path).open("rb", buffering=0) as file:
        file.seek(offset)
        data = np.empty(size, np.uint8)
        found = 0
        while found < size and (count := file.readinto(data.data[found:])):
            found += count
    if found < size:
        raise DamageError(f"{path}: expected {size} bytes at {offset}, found {found}")
    return data


def _mapped(path: str, offset: int, size: int) -> Bytes:
    start = offset - offset % mmap.ALLOCATIONGRANULARITY
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        pages = mmap.mmap(descriptor, offset + size - start, access=mmap.ACCESS_READ, offset=start)
    finally:
        os.close(descriptor)
    return np.frombuffer(pages, np.uint8)[offset - start :]
