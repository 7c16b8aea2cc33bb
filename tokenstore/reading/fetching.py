"""Shards that have to be fetched: from object storage, a web server, or a compressed zip file.

A shard's index is fetched once, and then runs of neighbouring chunks, many runs at a time. One request asks
for several runs where these are neighbours too. What two threads need, or two processes with the same cache,
is fetched once. A chunk whose checksum is wrong is fetched once more before it counts as damaged.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from hashlib import blake2b
from typing import TypeAlias, TypeVar

import numpy as np
from typing_extensions import override

from tokenstore.errors import CodecError, DamageError
from tokenstore.format import sharding
from tokenstore.reading import shards
from tokenstore.reading.memory import ReusedMemory
from tokenstore.reading.shard_indexes import AllIndexes, Stops, span
from tokenstore.reading.shards import ArrayFiles, Bytes, Check, Indices, Payloads, Shards
from tokenstore.storage import Cache

__all__ = ["FETCHED_NBYTES", "FetchedShards"]

FETCHED_NBYTES = 2**26
"""The bytes of fetched chunks that one array keeps in memory for later reads."""
_INDEXES_AT_ONCE = 256
_REQUESTS_AT_ONCE = 32
_TAG_NBYTES = 16
_JOINED_RUNS = 8
"""The most that one request asks for, in the size of a run."""

_T = TypeVar("_T")

Run: TypeAlias = tuple[int, int]
"""The first of a shard's neighbouring chunks, and the chunk after the last."""

_instances: weakref.WeakSet[FetchedShards] = weakref.WeakSet()


class FetchedShards(Shards):
    """The shards that are fetched by ranges. The last chunks stay in memory, and on disk where a cache is."""

    fetches = True

    def __init__(self, files: ArrayFiles, check: Check, cache: Cache | None = None) -> None:
        self._files = files
        self._check = check
        self._cache = cache
        self._folder = f"{files.store.root_digest}/{files.name}"
        self._indexes = AllIndexes(files)
        self._resident: OrderedDict[int, Bytes] = OrderedDict()
        self._resident_nbytes = 0
        self._memory = ReusedMemory(spare=1)
        self._cache_nbytes = FETCHED_NBYTES
        self.reset_locks()
        _instances.add(self)

    def reset_locks(self) -> None:
        """Make new locks after a fork: threads that had one, or were fetching, are not in this process."""
        self._lock = threading.Lock()
        self._index_lock = threading.Lock()
        self._pending: dict[int, Future[dict[int, Bytes]]] = {}

    @override
    def keeps(self, chunk: int) -> bool:
        return False

    @override
    def payload(self, chunk: int) -> Bytes:
        return self.payloads(np.array([chunk])).payloads[0]

    @override
    def read_once(self, chunks: Indices) -> Payloads:
        return self.payloads(chunks)

    @override
    def payloads(self, chunks: Indices) -> Payloads:
        requested = chunks.tolist()
        mine: Future[dict[int, Bytes]] = Future()
        try:
            payloads, pending, runs = self._claim(requested, mine)
            if runs:
                payloads.update(self._obtain(runs))
                self._add_resident(payloads)
            mine.set_result(payloads)
        except BaseException as error:
            mine.set_exception(error)
            raise
        finally:
            with self._lock:
                for chunk in [chunk for chunk, future in self._pending.items() if future is mine]:
                    del self._pending[chunk]
        for chunk, future in pending.items():
            try:
                payloads[chunk] = future.result()[chunk]
            except DamageError:  # perhaps of another chunk
                payloads[chunk] = self.payload(chunk)
        return Payloads(chunks, [payloads[chunk] for chunk in requested])

    @override
    def open(self, shard: int) -> None:
        self._index(shard)

    @override
    def reserve_cache(self, nbytes: int) -> None:
        self._cache_nbytes = max(self._cache_nbytes, nbytes)

    def _claim(
        self, requested: list[int], mine: Future[dict[int, Bytes]]
    ) -> tuple[dict[int, Bytes], dict[int, Future[dict[int, Bytes]]], list[Run]]:
        """Split chunks into those in memory, those another thread is fetching, and runs for this thread.

        `mine` becomes the future of all chunks of these runs.
        """
        with self._lock:
            resident = {chunk: self._resident[chunk] for chunk in requested if chunk in self._resident}
            pending = {
                chunk: self._pending[chunk]
                for chunk in requested
                if chunk not in resident and chunk in self._pending
            }
            missing = [chunk for chunk in requested if chunk not in resident and chunk not in pending]
            runs = list(self._runs(missing))
            for start, stop in runs:
                self._pending.update(dict.fromkeys(range(start, stop), mine))
        return resident, pending, runs

    def _runs(self, missing: list[int]) -> Iterable[Run]:
        """Yield runs that cover the missing chunks: whole runs where most of one is missing, else parts."""
        by_run: dict[tuple[int, int], list[int]] = {}
        size, per_shard = self._files.run_chunks, self._files.layout.chunks_per_shard
        for chunk in missing:
            shard, position = divmod(chunk, per_shard)
            by_run.setdefault((shard, position // size), []).append(chunk)
        for (shard, number), chunks in by_run.items():
            start = shard * per_shard + number * size
            stop = min(start + size, (shard + 1) * per_shard, self._files.chunks)
            free = not any(chunk in self._resident or chunk in self._pending for chunk in range(start, stop))
            if free and 2 * len(chunks) >= stop - start:
                yield start, stop
            else:
                yield from _neighbours(chunks)

    def _add_resident(self, payloads: dict[int, Bytes]) -> None:
        """Keep payloads in memory for later reads, and drop the oldest ones beyond the cache's size."""
        with self._lock:
            for chunk, payload in payloads.items():
                if chunk not in self._resident:
                    self._resident[chunk] = payload
                    self._resident_nbytes += payload.nbytes
            while self._resident_nbytes > self._cache_nbytes and len(self._resident) > 1:
                _, dropped = self._resident.popitem(last=False)
                self._resident_nbytes -= dropped.nbytes

    def _obtain(self, runs: list[Run]) -> dict[int, Bytes]:
        """Return the checked payloads of runs, from the disk's cache or fetched; raises DamageError."""
        self._load_indexes({start // self._files.layout.chunks_per_shard for start, _ in runs})
        payloads: dict[int, Bytes] = {}
        self._fetch_once(
            runs,
            self._key,
            lambda runs: self._read_cache(runs, payloads),
            lambda runs: self._fetch(runs, payloads),
        )
        return payloads

    def _fetch_once(
        self,
        items: list[_T],
        key: Callable[[_T], str],
        cached: Callable[[list[_T]], list[_T]],
        fetch: Callable[[list[_T]], object],
    ) -> None:
        """Fetch what is not in the disk's cache, as `Cache.fetch_once` does where one is."""
        missing = cached(items)
        if self._cache is not None and missing:
            self._cache.fetch_once(missing, key, cached, fetch)
        elif missing:
            fetch(missing)

    def _fetch(self, runs: list[Run], payloads: dict[int, Bytes]) -> None:
        """Add the checked payloads of runs to `payloads`, fetched and put into the disk's cache."""
        missing = runs
        for last_attempt in (False, True):
            if not missing:
                break
            damaged = []
            for run, data in self._read_runs(missing):
                try:
                    payloads.update(self._checked(run, data))
                except DamageError:
                    if last_attempt:
                        self._files.store.rule_out_change()
                        raise
                    damaged.append(run)
                else:
                    self._put(self._key(run), data)
            missing = damaged

    def _read_runs(self, runs: list[Run]) -> Iterator[tuple[Run, Bytes]]:
        """Yield the stored bytes of ascending runs, fetched."""
        joined: list[list[Run]] = []
        for run in runs:
            if joined and self._joins(run, joined[-1]):
                joined[-1].append(run)
            else:
                joined.append([run])
        answers = self._read_ranges([self._range((group[0][0], group[-1][1])) for group in joined])
        for group, data in zip(joined, answers, strict=True):
            position = 0
            for run in group:
                start, stop = self._span(run)
                yield run, np.frombuffer(data, np.uint8, stop - start, position)
                position += stop - start

    def _joins(self, run: Run, group: list[Run]) -> bool:
        """Return whether a run follows others in their shard, and is small enough to be fetched with them."""
        if run[0] != group[-1][1] or run[0] % self._files.layout.chunks_per_shard == 0:
            return False
        start, stop = self._span((group[0][0], run[1]))
        return stop - start <= _JOINED_RUNS * shards.RUN_NBYTES

    def _read_cache(self, runs: list[Run], payloads: dict[int, Bytes]) -> list[Run]:
        """Add the payloads of runs in the disk's cache to `payloads`, and return the other runs."""
        if self._cache is None or not runs:
            return runs
        stops = np.cumsum([stop - start + _TAG_NBYTES for start, stop in map(self._span, runs)])
        room = self._memory.allocate(int(stops[-1]))
        missing = []
        for run, part in zip(runs, np.split(room, stops[:-1]), strict=True):
            data = self._get(self._key(run), part)
            try:
                if data is None:
                    missing.append(run)
                else:
                    payloads.update(self._checked(run, data))
            except DamageError:
                self._cache.discard(self._key(run))
                missing.append(run)
        return missing

    def _checked(self, run: Run, data: Bytes) -> dict[int, Bytes]:
        """Return the payloads of a run's chunks, each checked; raises DamageError."""
        start, stop = self._span(run)
        if len(data) != stop - start:
            error = CodecError(f"expected {stop - start} bytes, found {len(data)}")
            raise self._files.unexplained_damage(run[0], error)
        shard, first = divmod(run[0], self._files.layout.chunks_per_shard)
        stops, (begin, _) = self._index(shard), self._span(run)
        payloads = {}
        for chunk in range(*run):
            start, stop = span(stops, chunk - run[0] + first)
            try:
                payload = sharding.checked_payload(data[start - begin : stop - begin])
                self._check(chunk, payload)
            except CodecError as error:
                raise self._files.unexplained_damage(chunk, error) from error
            payloads[chunk] = payload
        return payloads

    def _key(self, run: Run) -> str:
        return f"{self._folder}/{run[0]}-{run[1]}"

    def _index_key(self, shard: int) -> str:
        return f"{self._folder}/index/{shard}"

    def _range(self, run: Run) -> tuple[str, int, int]:
        return self._files.path(run[0] // self._files.layout.chunks_per_shard), *self._span(run)

    def _span(self, run: Run) -> tuple[int, int]:
        """Return the first byte of a run in its shard, and the byte after its last."""
        shard, first = divmod(run[0], self._files.layout.chunks_per_shard)
        return span(self._index(shard), first, run[1] - run[0])

    def _index(self, shard: int) -> Stops:
        stops = self._indexes.get(shard)
        if stops is None:
            self._load_indexes({shard})
            stops = self._indexes.get(shard)
            assert stops is not None, "an index that cannot be loaded is an error"
        return stops

    def _load_indexes(self, numbers: set[int]) -> None:
        """Fetch indexes of shards: of all shards where these are few, since a shuffle reads from all."""
        if not self._indexes.missing(numbers):
            return
        with self._index_lock:
            if self._files.layout.shards <= _INDEXES_AT_ONCE:
                numbers = set(range(self._files.layout.shards))
            missing = self._indexes.missing(numbers)
            self._fetch_once(
                missing,
                self._index_key,
                lambda shards: [shard for shard in shards if not self._index_from_cache(shard)],
                self._fetch_indexes,
            )

    def _fetch_indexes(self, missing: list[int]) -> None:
        """Fetch indexes of shards, and put them into the disk's cache; raises DamageError."""
        ranges = []
        for shard in missing:
            size = self._files.record_nbytes(shard)
            ranges.append((self._files.path(shard), max(0, size - self._files.layout.index_nbytes), size))
        answers = self._read_ranges(ranges, at_once=True)
        for shard, request, data in zip(missing, ranges, answers, strict=True):
            try:
                self._indexes.put(shard, self._decoded_index(shard, data))
            except DamageError:
                (data,) = self._read_ranges([request], at_once=True)
                self._indexes.put(shard, self._decoded_index(shard, data))
            self._put(self._index_key(shard), np.frombuffer(data, np.uint8))

    def _index_from_cache(self, shard: int) -> bool:
        key = self._index_key(shard)
        data = self._get(key)
        if data is None or self._cache is None:
            return False
        try:
            self._indexes.put(shard, self._decoded_index(shard, data))
        except DamageError:
            self._cache.discard(key)
            return False
        return True

    def _decoded_index(self, shard: int, data: bytes | Bytes) -> sharding.Index:
        files = self._files
        where = f"{files.store.storage}/{files.path(shard)}"
        expected = files.layout.index_nbytes
        if len(data) != expected:
            raise DamageError(f"{where}: expected an index of {expected} bytes, found {len(data)}")
        chunks = files.layout.shard_chunks(shard)
        return sharding.decode_index(data, chunks, files.record_nbytes(shard), where)

    def _get(self, key: str, room: Bytes | None = None) -> Bytes | None:
        """Return the bytes of a cached entry that was put under this very key, as `Cache.get` does."""
        data = None if self._cache is None else self._cache.get(key, room)
        if data is None or data[-_TAG_NBYTES:].tobytes() != _tag(key):
            return None
        return data[:-_TAG_NBYTES]

    def _put(self, key: str, data: Bytes) -> None:
        if self._cache is not None:
            self._cache.put(key, np.concatenate([data, np.frombuffer(_tag(key), np.uint8)]))

    def _read_ranges(self, ranges: list[tuple[str, int, int]], *, at_once: bool = False) -> list[bytes]:
        """Return the bytes of ranges, from the store that was opened.

        With `at_once`, another store in its place is noticed at once, and else after some seconds; bytes for
        the disk's cache are always this store's. Raises DamageError and StoreChangedError.
        """
        store = self._files.store
        if not ranges:
            return []
        try:
            answers = store.storage.read_ranges(ranges, _REQUESTS_AT_ONCE)
        except FileNotFoundError as error:
            store.rule_out_change()
            raise DamageError(f"{store.storage}: a shard is missing: {error}") from error
        except DamageError:
            store.rule_out_change()
            raise
        store.check_fetched(at_once=at_once or self._cache is not None)
        return answers


def _tag(key: str) -> bytes:
    """Return the bytes that bind a cached entry to its key, whatever file they are found in."""
    return blake2b(key.encode(), digest_size=_TAG_NBYTES, person=b"entry").digest()


def _neighbours(chunks: list[int]) -> Iterable[Run]:
    """Yield ascending chunks as runs without gaps."""
    start = previous = chunks[0]
    for chunk in chunks[1:]:
        if chunk != previous + 1:
            yield start, previous + 1
            start = chunk
        previous = chunk
    yield start, previous + 1


def _reset_after_fork() -> None:
    for instance in _instances:
        instance.reset_locks()


with contextlib.suppress(AttributeError):  # no forks on Windows
    os.register_at_fork(after_in_child=_reset_after_fork)
