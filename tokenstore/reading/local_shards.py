"""Shards on this machine's disk.

As many shards stay mapped as the process may map (`storage/mapping.py`). What is needed of any other shard is
read each time, from a file that is opened for it: neither how many files may be open nor the order of the
reads matters. A shard's index is read and checked once, and stays in flat arrays (`shard_indexes.py`).

A chunk's checksum is verified on its first access. In a shard that is not mapped, it is verified again where
the file has changed since, or another one is in its place. Else no more is read than the samples' own bytes.
"""

from __future__ import annotations

import itertools
import os
from typing import Self

import numpy as np
from typing_extensions import override

from tokenstore.errors import CodecError, DamageError
from tokenstore.format import sharding
from tokenstore.reading.shard_indexes import AllIndexes, RecentIndexes, ShardIndexes, Stops, span
from tokenstore.reading.shards import ArrayFiles, Bytes, Check, Indices, Payloads, Pieces, Shards
from tokenstore.storage.mapping import map_file, may_map
from tokenstore.storage.regular import read_into, version_of

__all__ = ["LocalShards"]

_EDITIONS = 2**32 - 1


class LocalShards(Shards):
    """The shards on this machine's disk.

    Without `mapped`, no shard is mapped, and a chunk is verified whenever it is read: that is for chunks that
    are needed once. With `in_turn`, shards are read one after another: none is mapped, and nothing of those
    that were read stays in memory.
    """

    fetches = False

    def __init__(
        self, files: ArrayFiles, check: Check, *, mapped: bool = True, in_turn: bool = False
    ) -> None:
        self._files = files
        self._check = check
        self._maps = mapped and not in_turn
        self._mappings: dict[int, Bytes] = {}
        self._indexes: ShardIndexes = RecentIndexes() if in_turn else AllIndexes(files)
        chunks = files.chunks if self._maps else 0
        self._verified = np.zeros(chunks, np.bool_)
        """True for chunks that were verified in their mapped shard."""
        self._verified_in = np.zeros(chunks, np.uint32)
        """The edition of the file in which a chunk of a shard that is not mapped was verified, or 0.

        subtle: one for each chunk, since threads may have opened different files of one name.
        """

    @override
    def keeps(self, chunk: int) -> bool:
        return chunk // self._files.layout.chunks_per_shard in self._mappings

    @override
    def payload(self, chunk: int) -> Bytes:
        return self._payloads(np.array([chunk]), self._maps).payloads[0]

    @override
    def payloads(self, chunks: Indices) -> Payloads:
        return self._payloads(chunks, self._maps)

    @override
    def read_once(self, chunks: Indices) -> Payloads:
        return self._payloads(chunks, maps=False)

    @override
    def pieces(self, chunks: Indices, offsets: Indices, nbytes: int) -> Pieces | None:
        if not isinstance(self._indexes, AllIndexes) or not self._maps or may_map():
            return None
        known = np.flatnonzero(self._verified_in[chunks])
        if not len(known):
            return None
        known = known[np.argsort(chunks[known], kind="stable")]
        chunks, pieces = chunks[known], Pieces(len(chunks), known, nbytes)
        editions = self._verified_in[chunks].tolist()
        starts = (self._indexes.starts(chunks) + offsets[known]).tolist()
        shards = (chunks // self._files.layout.chunks_per_shard).tolist()
        for shard, numbers in itertools.groupby(range(len(known)), shards.__getitem__):
            with self._opened(shard) as file:
                for number in numbers:
                    if editions[number] == file.edition:
                        file.read_into(starts[number], pieces.room(number))
        self._files.store.check_unchanged()
        return pieces

    @override
    def open(self, shard: int) -> None:
        if shard not in self._mappings:
            with self._opened(shard) as file:
                self._stops(shard, file)

    @override
    def reserve_cache(self, nbytes: int) -> None:
        pass

    def _payloads(self, chunks: Indices, maps: bool) -> Payloads:
        shards = chunks // self._files.layout.chunks_per_shard
        bounds = (0, *(np.flatnonzero(shards[1:] != shards[:-1]) + 1).tolist(), len(chunks))
        payloads: list[Bytes] = []
        lasting = np.zeros(len(chunks), np.bool_)
        for start, stop in itertools.pairwise(bounds if len(chunks) else ()):
            shard = int(shards[start])
            of_shard, lasting[start:stop] = self._payloads_of(shard, chunks[start:stop].tolist(), maps)
            payloads += of_shard
        if not lasting.all():
            # Another store may have taken the place of this one before its files were opened.
            self._files.store.check_unchanged()
        return Payloads(chunks, payloads, lasting)

    def _payloads_of(self, shard: int, chunks: list[int], maps: bool) -> tuple[list[Bytes], bool]:
        """Return the payloads of chunks of one shard, and whether they keep their place in memory.

        They do if the shard is mapped. With `maps`, it is from now on, if that is possible.
        """
        first = shard * self._files.layout.chunks_per_shard
        mapping = self._mappings.get(shard)
        stops = None if mapping is None else self._indexes.get(shard)
        if mapping is None or stops is None:
            with self._opened(shard) as file:
                stops = self._stops(shard, file)
                mapping = file.mapped() if maps else None
                if mapping is None:
                    spans = ((chunk, *span(stops, chunk - first)) for chunk in chunks)
                    return [self._read_payload(file, *each, again=maps) for each in spans], False
            self._files.store.check_unchanged()
            # subtle: the first thread's mapping stays, since addresses in it may be in use
            mapping = self._mappings.setdefault(shard, mapping)
        return [self._mapped_payload(mapping, chunk, *span(stops, chunk - first)) for chunk in chunks], True

    def _mapped_payload(self, mapping: Bytes, chunk: int, start: int, stop: int) -> Bytes:
        if self._verified[chunk]:
            return mapping[start : stop - sharding.CHECKSUM_NBYTES]
        payload = self._checked(chunk, mapping[start:stop])
        self._verified[chunk] = True
        return payload

    def _read_payload(self, file: _ShardFile, chunk: int, start: int, stop: int, *, again: bool) -> Bytes:
        """Read a chunk's payload, verified; if it may be read `again`, once in each edition of the file."""
        stored = file.read(start, stop)
        if again and self._verified_in[chunk] == file.edition:
            return stored[: -sharding.CHECKSUM_NBYTES]
        payload = self._checked(chunk, stored)
        if again:
            self._verified_in[chunk] = file.edition
        return payload

    def _checked(self, chunk: int, stored: Bytes) -> Bytes:
        """Return the payload in a chunk's stored bytes, verified."""
        try:
            payload = sharding.checked_payload(stored)
            self._check(chunk, payload)
        except CodecError as error:
            raise self._files.damage(chunk, error) from error
        return payload

    def _opened(self, shard: int) -> _ShardFile:
        """Open a shard, of which nothing is used before the store is known to be the one that was opened."""
        try:
            return _ShardFile(self._files, shard)
        except DamageError:
            self._files.store.rule_out_change()
            raise

    def _stops(self, shard: int, file: _ShardFile) -> Stops:
        """Return the ends of a shard's chunks, out of its open file where they are not known."""
        stops = self._indexes.get(shard)
        if stops is None:
            # subtle: another store's index must not take the place of numbers by which other threads read
            self._files.store.check_unchanged()
            stops = self._indexes.put(shard, self._read_index(shard, file))
        return stops

    def _read_index(self, shard: int, file: _ShardFile) -> sharding.Index:
        layout = self._files.layout
        try:
            data = file.read(file.nbytes - layout.index_nbytes, file.nbytes)
            return sharding.decode_index(data, layout.shard_chunks(shard), file.nbytes, file.where)
        except DamageError:
            self._files.store.rule_out_change()
            raise


class _ShardFile:
    """A shard's open file. Raises DamageError unless it has the size that the manifest says."""

    def __init__(self, files: ArrayFiles, shard: int) -> None:
        self._files, self._shard, self.nbytes = files, shard, files.record_nbytes(shard)
        try:
            file = files.store.storage.open_file(files.path(shard))
        except FileNotFoundError as error:
            raise DamageError(f"{self.where}: the shard is missing. Restore it from a copy") from error
        assert file is not None, "only files that can be mapped are read here"
        self._descriptor, self._offset, size = file
        if size != self.nbytes:
            os.close(self._descriptor)
            raise self._other_size(self.nbytes, size)
        # subtle: before any byte is read, so that bytes that change meanwhile are not of this edition
        self.edition = hash(version_of(os.fstat(self._descriptor))) % _EDITIONS + 1
        """A number, from 1 to 2**32 - 1, of this file as it is now: another one after a change."""

    @property
    def where(self) -> str:
        """The place of the shard, for a message."""
        return f"{self._files.store.storage}/{self._files.path(self._shard)}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def mapped(self) -> Bytes | None:
        """Return the mapped bytes of the file, or None where no more can be mapped."""
        return map_file(self._descriptor, self._offset, self.nbytes)

    def read(self, start: int, stop: int) -> Bytes:
        """Return the bytes [start, stop) of the file; raises DamageError if it has become shorter."""
        data = np.empty(stop - start, np.uint8)
        self.read_into(start, data.data)
        return data

    def read_into(self, start: int, room: memoryview) -> None:
        """Fill `room` with the bytes from `start` on; raises DamageError if the file has become shorter."""
        count = read_into(self._descriptor, self._offset + start, room)
        if count < len(room):
            raise self._other_size(self.nbytes, start + count)

    def _other_size(self, expected: int, actual: int) -> DamageError:
        return DamageError(
            f"{self.where}: expected {expected} bytes, found {actual}. Restore the shard from a copy"
        )
