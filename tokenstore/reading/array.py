"""Random access to one aligned array of a store: indices to codes, or to the values that go with them.

The reader fetches bytes itself. It maps a local shard into memory and decodes chunks from there; of a remote
shard it fetches only the chunks that are needed. It verifies a chunk's checksum on the first access, and
remembers the result.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from tokenstore.codecs.bitpack import Bitpack
from tokenstore.codecs.chunks import ChunkCodec, SampleCodec, SampleSpans
from tokenstore.errors import CodecError, DamageError
from tokenstore.format.layout import TOKENS, ArrayLayout
from tokenstore.reading.fetching import FetchedShards
from tokenstore.reading.shards import (
    MAX_OPEN_COLUMN_SHARDS,
    MAX_OPEN_SHARDS,
    PREFETCH_CHUNKS,
    ArrayFiles,
    Bytes,
    InMemoryShards,
    LocalShards,
    Payloads,
    Shards,
    all_payloads,
    drop_oldest,
)
from tokenstore.reading.store_files import StoreFiles

__all__ = [
    "ArrayReader",
    "ChunkArrayReader",
    "Indices",
    "SampleArrayReader",
    "Values",
    "array_reader",
    "normalised",
]

Indices: TypeAlias = npt.NDArray[np.int64]
Values: TypeAlias = npt.NDArray[Any]

CACHE_NBYTES = 2**26
"""The bytes of decoded chunks, or of samples' spans, that one array keeps in memory."""
_SMALL_SAMPLE_NBYTES = 16
"""The largest sample of arrays, such as labels, that stay in memory as a whole once decoded."""
_SMALL_ARRAY_NBYTES = 2**30


def normalised(indices: object, samples: int) -> Indices:
    """Return indices as (m,) int64 in [0, samples), with negative ones counted from the end.

    Raises IndexError for anything but a list of integers, and for one out of range.
    """
    array = np.asarray(indices)
    if array.size == 0:
        return np.empty(0, np.int64)
    if array.ndim != 1 or array.dtype.kind not in "ui":
        hint = "; of a mask, give np.flatnonzero(mask)" if array.dtype.kind == "b" else ""
        raise IndexError(f"expected a list of integers, found {array.dtype} of shape {array.shape}{hint}")
    outside = (array < -samples) | (array >= samples)
    if outside.any():
        raise IndexError(f"index {array[outside][0]} is out of range for {samples} samples")
    signed = array.astype(np.int64)
    return np.where(signed < 0, signed + samples, signed)


def array_reader(store: StoreFiles, name: str) -> ArrayReader:
    """Return a reader of an aligned array such as `train/tokens`, by what the array's codec can do.

    Raises ManifestError and DamageError where the array's metadata is bad.
    """
    files = ArrayFiles(store, name)
    codec = files.layout.codec.samples
    return ChunkArrayReader(files) if codec is None else SampleArrayReader(files, codec)


class ArrayReader(ABC):
    """Random access to one aligned array (N, *sample_shape) of a store.

    Safe to share between threads and after a fork, except that no other thread may read during `forget`. A
    pickled reader opens the array again at its location.
    """

    def __init__(self, files: ArrayFiles, codec: ChunkCodec, shards: Shards | None = None) -> None:
        self.store = files.store
        self.name = files.name
        self.files = files
        self._codec = codec
        codes = self.name.endswith(f"/{TOKENS}")
        self._code_limit = self.store.manifest.codebook_size if codes else None
        self._use(self._stored_shards() if shards is None else shards)

    def __reduce__(self) -> tuple[Callable[..., ArrayReader], tuple[StoreFiles, str]]:
        return array_reader, (self.store, self.name)

    def __len__(self) -> int:
        return self.layout.samples

    @property
    def layout(self) -> ArrayLayout:
        """The array's layout in the store."""
        return self.files.layout

    @property
    def is_local(self) -> bool:
        """True if samples are on this machine's disk or in memory, so that any sample is read at no cost."""
        return not self._shards.fetches

    @property
    def samples(self) -> SampleArrayReader | None:
        """The same reader with access to the spans of samples; None where only whole chunks decode."""
        return None

    @property
    @abstractmethod
    def _max_open(self) -> int:
        """The most shards of this machine's disk that are open together."""

    @abstractmethod
    def read(self, indices: object, out: Values | None = None, prefetched: Payloads | None = None) -> Values:
        """Return values (m, *sample_shape) of the samples at `indices` (m,), in their order.

        `out`, where given, is filled and returned: C-contiguous, of the array's dtype or, where samples can
        be read alone, int32 or int64. `prefetched` is a result of `prefetch`. Raises IndexError, DamageError,
        and StorageError where remote storage does not answer.
        """

    @abstractmethod
    def prefetch(self, indices: Indices) -> Payloads | None:
        """Fetch the chunks of samples before they are read; returns None where nothing has to be fetched.

        Raises DamageError, and StorageError where remote storage does not answer.
        """

    @abstractmethod
    def in_memory(self) -> ArrayReader:
        """Return a reader of the same array with all chunks, compressed, in this process's memory.

        Codes whose codec decodes only whole chunks (`zstd`) are packed instead. Raises DamageError.
        """

    def forget(self) -> None:
        """Release open shards and cached chunks, and forget which chunks are verified."""
        self._use(self._stored_shards())

    def reserve_cache(self, nbytes: int) -> None:
        """Let at least so many bytes of fetched chunks stay in memory for later reads."""
        self._shards.reserve_cache(nbytes)

    def prefetched_chunks(self) -> Iterator[tuple[int, Payloads | None]]:
        """Yield every chunk's number with its payload for `decode_chunk` and `spans`, many fetched at a time.

        Raises DamageError, and StorageError where remote storage does not answer.
        """
        for start in range(0, self.files.chunks, PREFETCH_CHUNKS):
            numbers = np.arange(start, min(start + PREFETCH_CHUNKS, self.files.chunks))
            payloads = None if self.is_local else self._shards.payloads(numbers)
            yield from ((number, payloads) for number in numbers.tolist())

    def decode_chunk(self, chunk: int, prefetched: Payloads | None = None) -> Values:
        """Return the values of one chunk; raises DamageError."""
        start, stop = self.layout.chunk_span(chunk)
        values = np.empty((stop - start, *self.layout.sample_shape), self.layout.dtype)
        payload = self._payload(chunk, prefetched)
        try:
            self._codec.decode(payload, values)
        except CodecError as error:
            raise self.files.damage(chunk, error) from error
        if self._code_limit is not None and int(values.max()) >= self._code_limit:
            expected = f"codes from 0 to {self._code_limit - 1}"
            raise DamageError(f"{self.where(chunk)}: expected {expected}, found {values.max()}")
        return values

    def shard_opens(self, shard: int) -> bool:
        """Return whether a shard has the size that the manifest says, and a valid index."""
        try:
            self._shards.open(shard)
        except DamageError:
            return False
        return True

    def where(self, chunk: int) -> str:
        """Return shard, chunk and samples, for a message."""
        return self.files.where(chunk)

    def _stored_shards(self) -> Shards:
        if self.store.storage.maps_files:
            return LocalShards(self.files, self._check_payload, self._max_open)
        return FetchedShards(self.files, self._check_payload, self.store.cache)

    def _use(self, shards: Shards) -> None:
        """Read from these shards from now on, with nothing cached of others."""
        self._shards: Shards = shards

    def _payload(self, chunk: int, prefetched: Payloads | None) -> Bytes:
        places = None if prefetched is None else prefetched.places(np.array([chunk]))
        if prefetched is None or places is None:
            return self._shards.payload(chunk)
        return prefetched.payloads[int(places[0])]

    def _check_payload(self, chunk: int, payload: Bytes) -> None:
        start, stop = self.layout.chunk_span(chunk)
        self.layout.codec.check_payload(payload, stop - start, self.layout.sample_shape)

    def _output(self, indices: object, out: Values | None) -> tuple[Indices, Values]:
        """Return checked indices (m,), and the array (m, *sample_shape) to fill."""
        row_numbers = normalised(indices, self.layout.samples)
        if out is None:
            out = np.empty((len(row_numbers), *self.layout.sample_shape), self.layout.dtype)
        return row_numbers, out

    def _copy_in_memory(self, reader: ArrayReader) -> None:
        """Let another reader of this array have all chunks, as they are stored, in memory."""
        if self.store.storage.maps_files:
            # Mapped pages would count as memory of this process, and stay in it.
            reader._use(LocalShards(self.files, self._check_payload, self.layout.shards, mapped=False))
            # The shards stay in memory once their chunks are checked.
            deque(all_payloads(self.files, reader._shards), maxlen=0)
        else:
            room = sum(self.files.record_nbytes(shard) for shard in range(self.layout.shards))
            reader._use(InMemoryShards(self.files.chunks, room, all_payloads(self.files, reader._shards)))


class SampleArrayReader(ArrayReader):
    """A reader of an array whose codec decodes samples alone: it decodes only the samples that are read."""

    def __init__(self, files: ArrayFiles, codec: SampleCodec, shards: Shards | None = None) -> None:
        self._sample_codec = codec
        self._sample_nbytes = codec.sample_nbytes(files.layout.sample_shape)
        super().__init__(files, codec, shards)

    @property
    @override
    def samples(self) -> SampleArrayReader:
        return self

    @property
    @override
    def _max_open(self) -> int:
        return MAX_OPEN_SHARDS

    @override
    def forget(self) -> None:
        if self._codec is self.layout.codec:  # else its chunks were packed in memory, and are nowhere else
            super().forget()

    @override
    def _use(self, shards: Shards) -> None:
        super()._use(shards)
        self._address = np.zeros(self.files.chunks, np.uint64)
        """The addresses of stable chunks' payloads; 0 before a chunk's first access."""
        self._spans: OrderedDict[int, SampleSpans] = OrderedDict()

    @override
    def read(self, indices: object, out: Values | None = None, prefetched: Payloads | None = None) -> Values:
        row_numbers, out = self._output(indices, out)
        if len(row_numbers):
            chunk, row = np.divmod(row_numbers, self.layout.chunk_samples)
            if self._sample_nbytes is None:
                self._read_spans(chunk, row, out, prefetched)
            else:
                self._read_equal(self._sample_nbytes, chunk, row, out, prefetched)
        return out

    @override
    def prefetch(self, indices: Indices) -> Payloads | None:
        if self.is_local:
            return None
        return self._shards.payloads(np.unique(indices // self.layout.chunk_samples))

    @override
    def in_memory(self) -> SampleArrayReader:
        reader = SampleArrayReader(self.files, self._sample_codec)
        self._copy_in_memory(reader)
        return reader

    def spans(self, chunk: int, prefetched: Payloads | None = None) -> SampleSpans:
        """Return the spans of a chunk's samples, checked on the first access; raises DamageError."""
        spans = self._spans.get(chunk)
        if spans is None:
            start, stop = self.layout.chunk_span(chunk)
            payload = self._payload(chunk, prefetched)
            try:
                spans = self._sample_codec.spans(payload, self.layout.sample_shape, at_most=stop - start)
                if len(spans.addresses) != stop - start:
                    raise CodecError(f"expected {stop - start} samples, found {len(spans.addresses)}")
            except CodecError as error:
                raise self.files.damage(chunk, error) from error
            if self._sample_nbytes is not None:
                return spans  # quickly made again, so not worth keeping the payload for
            self._spans[chunk] = spans
            owned = spans.nbytes - (payload.nbytes if self._shards.stable else 0)
            while len(self._spans) * owned > CACHE_NBYTES and len(self._spans) > 1:
                drop_oldest(self._spans)
        return spans

    def _read_equal(
        self, sample_nbytes: int, chunk: Indices, row: Indices, out: Values, prefetched: Payloads | None
    ) -> None:
        """Read samples that all have the same number of bytes: their addresses follow from their chunk's."""
        if self._shards.stable:
            base = self._address[chunk]
            if not base.all():
                for number in np.unique(chunk[base == 0]).tolist():
                    self._address[number] = self._shards.payload(number).ctypes.data
                base = self._address[chunk]
        else:
            places = None if prefetched is None else prefetched.places(chunk)
            if prefetched is None or places is None:
                prefetched = self._shards.payloads(np.unique(chunk))
                places = np.searchsorted(prefetched.chunks, chunk)
            base = prefetched.addresses[places]
        addresses = base + (row * sample_nbytes).astype(np.uint64)

        def decode(samples: slice) -> None:
            self._sample_codec.decode_at(addresses[samples], out[samples])

        self._decode_all(decode, chunk, row)

    def _read_spans(self, chunk: Indices, row: Indices, out: Values, prefetched: Payloads | None) -> None:
        """Read samples that differ in length, by the spans of their chunks' samples."""
        numbers, inverse = np.unique(chunk, return_inverse=True)
        if prefetched is None and not self._shards.stable:
            unknown = [number for number in numbers.tolist() if number not in self._spans]
            prefetched = self._shards.payloads(np.array(unknown, np.int64)) if unknown else None
        spans = [self.spans(number, prefetched) for number in numbers.tolist()]
        places = inverse.reshape(-1)

        def decode(samples: slice) -> None:
            self._sample_codec.decode_spans(spans, places[samples], row[samples], out[samples])

        self._decode_all(decode, chunk, row)

    def _decode_all(self, decode: Callable[[slice], None], chunk: Indices, row: Indices) -> None:
        """Decode all samples at once; after an error one by one, to name the damaged sample."""
        try:
            decode(slice(None))
        except CodecError:
            for at, (number, position) in enumerate(zip(chunk.tolist(), row.tolist(), strict=True)):
                try:
                    decode(slice(at, at + 1))
                except CodecError as error:
                    message = str(error).removeprefix("sample 0, ").removeprefix("sample 0: ")
                    raise self.files.damage(number, CodecError(message), position) from error
            raise


class ChunkArrayReader(ArrayReader):
    """A reader of an array whose codec decodes whole chunks: it caches decoded chunks, or a small array."""

    def __init__(self, files: ArrayFiles) -> None:
        super().__init__(files, files.layout.codec)

    @property
    @override
    def _max_open(self) -> int:
        return MAX_OPEN_COLUMN_SHARDS

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

    def _packed_in_memory(self, codebook_size: int) -> SampleArrayReader:
        codec = Bitpack(codebook_size)
        shards = (
            LocalShards(self.files, self._check_payload, 1, mapped=False)
            if self.store.storage.maps_files
            else self._stored_shards()
        )

        def packed_payloads() -> Iterator[Bytes]:
            for chunk, payload in enumerate(all_payloads(self.files, shards)):
                codes = self.decode_chunk(chunk, Payloads(np.array([chunk]), [payload]))
                yield np.frombuffer(codec.encode(codes, len(codes), 0), np.uint8)

        room = len(self) * codec.sample_nbytes(self.layout.sample_shape)
        packed = InMemoryShards(self.files.chunks, room, packed_payloads())
        return SampleArrayReader(self.files, codec, packed)

    @cached_property
    def _is_small(self) -> bool:
        sample_nbytes = self.layout.dtype.itemsize * math.prod(self.layout.sample_shape)
        return sample_nbytes <= _SMALL_SAMPLE_NBYTES and len(self) * sample_nbytes <= _SMALL_ARRAY_NBYTES

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
            while len(self._decoded) * values.nbytes > CACHE_NBYTES and len(self._decoded) > 1:
                drop_oldest(self._decoded)
        return values
