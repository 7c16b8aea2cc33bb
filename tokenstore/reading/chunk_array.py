"""Random access to an array whose codec decodes whole chunks; decoded chunks are cached."""

from __future__ import annotations

import math
import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from functools import cached_property

import numpy as np
from typing_extensions import override

from tokenstore.codecs import Bitpack
from tokenstore.reading.array import CACHE_NBYTES, ArrayReader, Indices, Values
from tokenstore.reading.decoded import DecodedValues, NoRoomError
from tokenstore.reading.sample_array import SampleArrayReader
from tokenstore.reading.shards import (
    PREFETCH_CHUNKS,
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
"""The largest sample of arrays, such as labels, whose values all stay decoded."""


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
        self._has_no_room = False
        self.__dict__.pop("_decoded_values", None)

    @override
    def _read_into(
        self, row_numbers: Indices, out: Values, prefetched: Payloads | None, views: Indices | None
    ) -> None:
        chunk, row = np.divmod(row_numbers, self.layout.chunk_samples)
        values = self._small_values(chunk) if self._is_small else None
        if values is None:
            self._read_chunks(chunk, row, out, views)
        else:
            out[...] = values[row_numbers] if views is None else values[row_numbers, views]

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
        codec = Bitpack(codebook_size, self.layout.views)
        shards = self._stored_shards()

        def packed_payloads() -> Iterator[Bytes]:
            for chunk, payload in enumerate(all_payloads(self.files, shards)):
                codes = self.decode_chunk(chunk, Payloads(np.array([chunk]), [payload]))
                yield np.frombuffer(codec.encode(codes, len(codes), 0), np.uint8)

        room = len(self) * self.layout.views * codec.sample_nbytes(self.layout.view_shape)
        packed = InMemoryShards(self.files.chunks, room, packed_payloads())
        return PackedArrayReader(self.files, codec, packed)

    @cached_property
    def _is_small(self) -> bool:
        sample_nbytes = self.layout.dtype.itemsize * math.prod(self.layout.sample_shape)
        return self._keep_small and sample_nbytes <= _SMALL_SAMPLE_NBYTES

    def _small_values(self, chunk: Indices) -> Values | None:
        """Return all values, of which at least these chunks' are decoded; None if there is no room for them.

        The first access to chunks that have to be fetched fetches and decodes all that go into memory.
        """
        if self._has_no_room:
            return None
        try:
            values = self._values
            if not values.is_decoded[chunk].all():
                self._decode_missing(values, np.unique(chunk[~values.is_decoded[chunk]]))
        except NoRoomError as error:
            self._has_no_room = True
            self.__dict__.pop("_decoded_values", None)
            nbytes = self.layout.dtype.itemsize * math.prod(self.layout.shape)
            warnings.warn(
                f"{self.store.storage}/{self.name}: no room for {nbytes:,} bytes of decoded values in "
                f"{tempfile.gettempdir()} ({error}): reading them is slow. Make room, or set TMPDIR",
                stacklevel=4,
            )
            return None
        return values.values

    @property
    def _values(self) -> DecodedValues:
        """The decoded values. subtle: threads that come first at once get the same object."""
        values: DecodedValues | None = self.__dict__.get("_decoded_values")
        if values is None:
            made = DecodedValues(self.layout.shape, self.layout.dtype, self.files.chunks)
            values = self.__dict__.setdefault("_decoded_values", made)
        return values

    def _decode_missing(self, values: DecodedValues, missing: Indices) -> None:
        """Put missing chunks into `values`; if they are fetched and go into memory, all that are missing."""
        if not self.is_local and values.in_memory:
            missing = np.flatnonzero(~values.is_decoded)
        for numbers in np.split(missing, range(PREFETCH_CHUNKS, len(missing), PREFETCH_CHUNKS)):
            payloads = None if self.is_local else self._shards.payloads(numbers)
            for number in numbers.tolist():
                values.put(number, self.layout.chunk_span(number)[0], self.decode_chunk(number, payloads))

    def _read_chunks(self, chunk: Indices, row: Indices, out: Values, views: Indices | None) -> None:
        numbers = np.unique(chunk)
        unknown = [number for number in numbers.tolist() if number not in self._decoded]
        fetches = unknown and not self.is_local
        payloads = self._shards.payloads(np.array(unknown, np.int64)) if fetches else None
        for number in numbers.tolist():
            here = chunk == number
            values = self._decoded_chunk(number, payloads)
            out[here] = values[row[here]] if views is None else values[row[here], views[here]]

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
