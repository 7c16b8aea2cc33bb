"""Random access to an array whose codec decodes whole chunks; decoded chunks are cached."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from functools import cached_property

import numpy as np
from typing_extensions import override

from tokenstore.codecs import Bitpack
from tokenstore.reading.array import CACHE_NBYTES, ArrayReader, Indices, Values
from tokenstore.reading.sample_array import SampleArrayReader
from tokenstore.reading.shards import (
    ArrayFiles,
    Bytes,
    InMemoryShards,
    Payloads,
    Shards,
    all_payloads,
    drop_oldest,
)
from tokenstore.reading.store_files import StoreFiles

__all__ = ["ChunkArrayReader", "PackedArrayReader"]

_SMALL_SAMPLE_NBYTES = 16
"""The largest sample of arrays, such as labels, that stay in memory as a whole once decoded."""
_SMALL_ARRAY_NBYTES = 2**30
"""The most bytes of an array that stays in memory as a whole once decoded."""


class ChunkArrayReader(ArrayReader):
    """A reader of an array whose codec decodes whole chunks: it caches decoded chunks, or a small array."""

    def __init__(self, files: ArrayFiles, *, keep_small: bool = True) -> None:
        self._keep_small = keep_small
        super().__init__(files, files.layout.codec)

    @classmethod
    @override
    def opened(cls, store: StoreFiles, name: str) -> ChunkArrayReader:
        return ChunkArrayReader(ArrayFiles(store, name))

    @property
    @override
    def _maps_shards(self) -> bool:
        return not self._is_small  # whose decoded chunks stay in memory instead

    @override
    def _use(self, shards: Shards) -> None:
        super()._use(shards)
        self._decoded: OrderedDict[int, Values] = OrderedDict()
        rows = len(self) if self._is_small else 0
        self._values = np.empty((rows, *self.layout.sample_shape), self.layout.dtype)
        self._is_decoded = np.zeros(self.files.chunks, np.bool_)

    @override
    def read(self, indices: object, out: Values | None = None, prefetched: Payloads | None = None) -> Values:
        row_numbers, out = self._output(indices, out)
        if len(row_numbers):
            chunk, row = np.divmod(row_numbers, self.layout.chunk_samples)
            if self._is_small:
                out[...] = self._small_values(chunk)[row_numbers]
            else:
                self._read_chunks(chunk, row, out)
        return out

    @override
    def prefetch(self, indices: Indices) -> None:
        return None

    @override
    def in_memory(self) -> ArrayReader:
        if self._code_limit is not None:
            return self._packed_in_memory(self._code_limit)
        reader = ChunkArrayReader(self.files)
        self._copy_in_memory(reader)
        return reader

    @override
    def streamed(self, threads: int = 1) -> ArrayReader:
        return self._stream_into(ChunkArrayReader(self.files, keep_small=False), threads)

    def _packed_in_memory(self, codebook_size: int) -> PackedArrayReader:
        codec = Bitpack(codebook_size)
        shards = self._stored_shards()

        def packed_payloads() -> Iterator[Bytes]:
            for chunk, payload in enumerate(all_payloads(self.files, shards)):
                codes = self.decode_chunk(chunk, Payloads(np.array([chunk]), [payload]))
                yield np.frombuffer(codec.encode(codes, len(codes), 0), np.uint8)

        room = len(self) * codec.sample_nbytes(self.layout.sample_shape)
        packed = InMemoryShards(self.files.chunks, room, packed_payloads())
        return PackedArrayReader(self.files, codec, packed)

    @cached_property
    def _is_small(self) -> bool:
        sample_nbytes = self.layout.dtype.itemsize * math.prod(self.layout.sample_shape)
        return (
            self._keep_small
            and sample_nbytes <= _SMALL_SAMPLE_NBYTES
            and len(self) * sample_nbytes <= _SMALL_ARRAY_NBYTES
        )

    def _small_values(self, chunk: Indices) -> Values:
        """Return all values, of which at least these chunks' are decoded.

        The first access to chunks that have to be fetched fetches and decodes all of them.
        """
        if not self._is_decoded[chunk].all():
            missing = np.unique(chunk[~self._is_decoded[chunk]]).tolist()
            if not self.is_local:
                missing = np.flatnonzero(~self._is_decoded).tolist()
            payloads = None if self.is_local else self._shards.payloads(np.array(missing, np.int64))
            for number in missing:
                self._values[slice(*self.layout.chunk_span(number))] = self.decode_chunk(number, payloads)
                self._is_decoded[number] = True
        return self._values

    def _read_chunks(self, chunk: Indices, row: Indices, out: Values) -> None:
        numbers = np.unique(chunk)
        unknown = [number for number in numbers.tolist() if number not in self._decoded]
        fetches = unknown and not self.is_local
        payloads = self._shards.payloads(np.array(unknown, np.int64)) if fetches else None
        for number in numbers.tolist():
            here = chunk == number
            out[here] = self._decoded_chunk(number, payloads)[row[here]]

    def _decoded_chunk(self, chunk: int, payloads: Payloads | None) -> Values:
        values = self._decoded.get(chunk)
        if values is None:
            values = self._decoded[chunk] = self.decode_chunk(chunk, payloads)
            most = CACHE_NBYTES if self._cache_nbytes is None else self._cache_nbytes
            while len(self._decoded) * values.nbytes > most and len(self._decoded) > self._least_cached:
                drop_oldest(self._decoded)
        return values


class PackedArrayReader(SampleArrayReader):
    """A reader of codes that were packed in memory, since their codec in the store decodes whole chunks.

    A pickled reader opens the array as it is stored.
    """

    @classmethod
    @override
    def opened(cls, store: StoreFiles, name: str) -> ArrayReader:
        return ChunkArrayReader.opened(store, name)

    @override
    def in_memory(self) -> PackedArrayReader:
        return self

    @override
    def streamed(self, threads: int = 1) -> ArrayReader:
        return self

    @override
    def forget(self) -> None:
        pass  # the packed chunks are nowhere else
