"""Random access to a store: indices to codes and to the values that go with them.

The reader fetches bytes itself. A local shard is mapped into memory and its chunks are decoded from
there; of a remote one, only the chunks that are needed are fetched. A chunk's checksum is verified when
the chunk is first touched, and remembered.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
from collections import OrderedDict
from collections.abc import Mapping
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

from tokenstore.codecs import bitpack, sharding
from tokenstore.codecs.chunks import Bitpack
from tokenstore.codecs.context.codec import Context, Located
from tokenstore.errors import CodecError, DamageError, StoreError
from tokenstore.store import LABELS, SAMPLES_TABLE, TOKENS, ArrayLayout, Store

Indices: TypeAlias = npt.NDArray[np.int64]
Values: TypeAlias = npt.NDArray[Any]
_Bytes: TypeAlias = npt.NDArray[np.uint8]


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
CACHE_NBYTES = 2**26
"""Fetched or decoded chunks that one array keeps."""


def normalised(indices: object, samples: int) -> Indices:
    """Indices (m,) int64 in [0, samples), negative ones counted from the end; raises IndexError."""
    array = np.asarray(indices)
    if array.size == 0:
        return np.empty(0, np.int64)
    if array.ndim != 1 or array.dtype.kind not in "ui":
        raise IndexError(f"expected a list of integers, found {array.dtype} of shape {array.shape}")
    outside = (array < -samples) | (array >= samples)
    if outside.any():
        raise IndexError(f"index {array[outside][0]} is out of range for {samples} samples")
    signed = array.astype(np.int64)
    return np.where(signed < 0, signed + samples, signed)


class ArrayReader:
    """Random access to one aligned array (N, *sample_shape) of a store.

    Safe to share between threads and after a fork: its caches need no lock. Only `forget` has to be called
    while no other thread reads. Pickles to its location.
    """

    def __init__(self, store: Store, name: str) -> None:
        self.store = store
        self.name = name
        self.layout: ArrayLayout = store.layout(name)
        self._code_limit = store.manifest.codebook_size if name.endswith(f"/{TOKENS}") else None
        self.forget()

    def __reduce__(self) -> tuple[type[ArrayReader], tuple[Store, str]]:
        return ArrayReader, (self.store, self.name)

    def forget(self) -> None:
        """Let go of open shards, cached chunks, and of what was verified."""
        chunks = -(-self.layout.samples // self.layout.chunk_samples)
        self._verified = np.zeros(chunks, np.bool_)
        self._address = np.zeros(chunks, np.uint64)
        self._shards: OrderedDict[int, _Shard] = OrderedDict()
        self._chunks: OrderedDict[int, Values] = OrderedDict()
        self._located: OrderedDict[int, Located] = OrderedDict()

    def __len__(self) -> int:
        return self.layout.samples

    def read(self, indices: object, out: Values | None = None) -> Values:
        """Values (m, *sample_shape) of the samples at `indices` (m,), in their order.

        `out` may be given to be filled: C-contiguous, of the array's dtype or, for codes that are packed
        or coded by context, int32 or int64. Raises IndexError, DamageError.
        """
        wanted = normalised(indices, self.layout.samples)
        if out is None:
            out = np.empty((len(wanted), *self.layout.sample_shape), self.layout.dtype)
        if not len(wanted):
            return out
        chunk, row = np.divmod(wanted, self.layout.chunk_samples)
        if isinstance(self.layout.codec, Bitpack):
            self._read_packed(self.layout.codec, chunk, row, out)
        elif isinstance(self.layout.codec, Context):
            self._read_coded(self.layout.codec, chunk, row, out)
        else:
            for number in np.unique(chunk).tolist():
                here = chunk == number
                out[here] = self._decoded(number)[row[here]]
        return out

    def decode_chunk(self, chunk: int) -> Values:
        """The values of one chunk, freshly checked and decoded; raises DamageError."""
        start, stop = self.layout.chunk_span(chunk)
        values = np.empty((stop - start, *self.layout.sample_shape), self.layout.dtype)
        stored = self._shard(chunk).chunk(chunk % self.layout.chunks_per_shard)
        try:
            self.layout.codec.decode(sharding.checked_payload(stored), values)
        except CodecError as error:
            raise DamageError(f"{self.where(chunk)}: {error}. Restore the shard from a copy") from error
        if self._code_limit is not None and int(values.max()) >= self._code_limit:
            expected = f"codes from 0 to {self._code_limit - 1}"
            raise DamageError(f"{self.where(chunk)}: expected {expected}, found {values.max()}")
        return values

    def shard_opens(self, shard: int) -> bool:
        """Whether a shard's size and index are as promised."""
        try:
            self._shard(shard * self.layout.chunks_per_shard)
        except DamageError:
            return False
        return True

    def where(self, chunk: int) -> str:
        """Shard, chunk and samples, for a message."""
        start, stop = self.layout.chunk_span(chunk)
        shard, position = divmod(chunk, self.layout.chunks_per_shard)
        return (
            f"{self.store.storage}/{self.name} shard {shard} chunk {position} (samples {start} to {stop - 1})"
        )

    def _read_packed(self, codec: Bitpack, chunk: Indices, row: Indices, out: Values) -> None:
        codes = out.reshape(len(out), -1)
        sample_nbytes = bitpack.sample_nbytes(codes.shape[1], codec.codebook_size)
        payloads: list[_Bytes] = []
        if self.layout.shards <= MAX_OPEN_SHARDS and self.store.storage.maps_files:
            unseen = chunk[~self._verified[chunk]]
            for number in sorted(set(unseen.tolist())):
                self._payload(codec, number)
            base = self._address[chunk]
        else:
            numbers, inverse = np.unique(chunk, return_inverse=True)
            payloads = [self._payload(codec, number) for number in numbers.tolist()]
            base = np.array([payload.ctypes.data for payload in payloads], np.uint64)[inverse]
        try:
            bitpack.unpack_at(
                base + (row * sample_nbytes).astype(np.uint64), codes.shape[1], codec.codebook_size, codes
            )
        except CodecError as error:
            raise DamageError(f"{self.store.storage}/{self.name}: {error}") from error

    def _read_coded(self, codec: Context, chunk: Indices, row: Indices, out: Values) -> None:
        numbers, inverse = np.unique(chunk, return_inverse=True)
        located = [self.located(number) for number in numbers.tolist()]
        try:
            codec.decode_at(located, inverse.reshape(-1), row, out)
        except CodecError as error:
            raise DamageError(f"{self.store.storage}/{self.name}: {error}") from error

    def located(self, chunk: int) -> Located:
        """Where each sample of a chunk of `bitpack` or `context` lies; checked when first touched."""
        codec = self.layout.codec
        if isinstance(codec, Bitpack):
            return codec.locate(self._payload(codec, chunk), self.layout.sample_shape)
        assert isinstance(codec, Context)
        kept = self._located.get(chunk)
        if kept is None:
            start, stop = self.layout.chunk_span(chunk)
            stored = self._shard(chunk).chunk(chunk % self.layout.chunks_per_shard)
            try:
                checked = self._verified[chunk]
                payload = stored[: -sharding.CHECKSUM_NBYTES] if checked else sharding.checked_payload(stored)
                kept = codec.locate(payload, self.layout.sample_shape, stop - start)
                if len(kept.addresses) != stop - start:
                    raise CodecError(f"expected {stop - start} samples, found {len(kept.addresses)}")
            except CodecError as error:
                raise DamageError(f"{self.where(chunk)}: {error}. Restore the shard from a copy") from error
            self._verified[chunk] = self._shard(chunk).mapped
            self._located[chunk] = kept
            while len(self._located) * kept.nbytes > CACHE_NBYTES and len(self._located) > 1:
                _drop_oldest(self._located)
        return kept

    def _payload(self, codec: Bitpack, chunk: int) -> _Bytes:
        """A chunk's packed samples: mapped, or fetched and kept; checked when first touched."""
        cached = self._chunks.get(chunk)
        if cached is not None:
            return cached
        shard = self._shard(chunk)
        stored = shard.chunk(chunk % self.layout.chunks_per_shard)
        if self._verified[chunk] and shard.mapped:
            return stored[: -sharding.CHECKSUM_NBYTES]
        try:
            payload = sharding.checked_payload(stored)
            start, stop = self.layout.chunk_span(chunk)
            codec.check_size(payload, stop - start, math.prod(self.layout.sample_shape))
        except CodecError as error:
            raise DamageError(f"{self.where(chunk)}: {error}. Restore the shard from a copy") from error
        if shard.mapped:
            # subtle: in this order, since another thread takes the address of what is verified
            self._address[chunk] = payload.ctypes.data
            self._verified[chunk] = True
        else:
            self._keep(chunk, payload)
        return payload

    def _decoded(self, chunk: int) -> Values:
        values = self._chunks.get(chunk)
        if values is None:
            values = self.decode_chunk(chunk)
            self._keep(chunk, values)
        return values

    def _keep(self, chunk: int, values: Values) -> None:
        self._chunks[chunk] = values
        while len(self._chunks) * values.nbytes > CACHE_NBYTES and len(self._chunks) > 1:
            _drop_oldest(self._chunks)

    def _shard(self, chunk: int) -> _Shard:
        number = chunk // self.layout.chunks_per_shard
        shard = self._shards.get(number)
        if shard is None:
            # subtle: the first thread's stays, since addresses into its mapping may be in use
            shard = self._shards.setdefault(number, _Shard(self.store, self.name, self.layout, number))
            packed = isinstance(self.layout.codec, Bitpack | Context)
            while len(self._shards) > (MAX_OPEN_SHARDS if packed else MAX_OPEN_COLUMN_SHARDS):
                _drop_oldest(self._shards)
        return shard


def _drop_oldest(cache: OrderedDict[int, Any]) -> None:
    with contextlib.suppress(KeyError):  # other threads have emptied it
        cache.popitem(last=False)


class _Shard:
    """One shard's bytes and its checked index."""

    def __init__(self, store: Store, array: str, layout: ArrayLayout, number: int) -> None:
        self._storage = store.storage
        self._path = f"{array}/{layout.shard_file(number)}"
        where = f"{store.storage}/{self._path}"
        expected = store.record(self._path).size
        try:
            region = self._storage.region(self._path)
            size = self._storage.size(self._path) if region is None else region[2]
        except FileNotFoundError as error:
            raise DamageError(f"{where}: the shard is missing. Restore it from a copy") from error
        if size != expected or size < layout.index_nbytes:
            raise DamageError(
                f"{where}: expected {expected} bytes, found {size}. Restore the shard from a copy"
            )
        self._bytes = None if region is None else _mapped(*region)
        index: bytes | _Bytes
        if self._bytes is not None:
            index = self._bytes[-layout.index_nbytes :]
        else:
            index = self._storage.read_range(self._path, size - layout.index_nbytes, size)
        self._index = sharding.decode_index(index, layout.shard_chunks(number), size, where)

    @property
    def mapped(self) -> bool:
        return self._bytes is not None

    def chunk(self, position: int) -> _Bytes:
        """A chunk's stored bytes, checksum included."""
        offset, length = self._index[position].tolist()
        if self._bytes is not None:
            return self._bytes[offset : offset + length]
        return np.frombuffer(self._storage.read_range(self._path, offset, offset + length), np.uint8)


def _mapped(path: str, offset: int, size: int) -> _Bytes:
    start = offset - offset % mmap.ALLOCATIONGRANULARITY
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        pages = mmap.mmap(descriptor, offset + size - start, access=mmap.ACCESS_READ, offset=start)
    finally:
        os.close(descriptor)
    return np.frombuffer(pages, np.uint8)[offset - start :]


class SplitReader:
    """One split: its tokens and every array aligned with them."""

    def __init__(self, store: Store, split: str) -> None:
        if split not in store.splits:
            raise StoreError(
                f"{store.storage}: no split {split!r}; it has {', '.join(store.splits) or 'none'}"
            )
        self.store = store
        self.name = split
        self.arrays = {name: ArrayReader(store, f"{split}/{name}") for name in store.split_arrays(split)}

    def __len__(self) -> int:
        return self.store.manifest.splits[self.name].samples

    def __repr__(self) -> str:
        return f"SplitReader({self.store.storage.url}/{self.name}, {len(self):,} samples)"

    def __getitem__(self, index: int | slice) -> Values:
        """The codes of one sample (*grid), or of a slice (m, *grid)."""
        if isinstance(index, slice):
            return self.read(TOKENS, np.arange(*index.indices(len(self))))
        values: Values = self.read(TOKENS, [index])[0]
        return values

    def read(self, name: str, indices: object, out: Values | None = None) -> Values:
        """Values (m, *shape) of an aligned array at `indices` (m,).

        Raises IndexError, StoreError, DamageError.
        """
        if name not in self.arrays:
            raise StoreError(
                f"{self.store.storage}/{self.name}: no array {name!r}; it has {', '.join(self.arrays)}"
            )
        return self.arrays[name].read(indices, out)

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.arrays)

    @cached_property
    def labels(self) -> npt.NDArray[np.int32] | None:
        """All labels (N,), or None where the split has none."""
        if LABELS not in self.arrays:
            return None
        return self.read(LABELS, np.arange(len(self)))

    def samples_table(self) -> Any:
        """Where each sample came from, as a `pyarrow.Table` of N rows."""
        import io

        import pyarrow.parquet as pq

        return pq.read_table(io.BytesIO(self.store.read_checked(f"{self.name}/{SAMPLES_TABLE}")))


class TokenStore:
    """A store open for reading: `store["train"][5]` are the codes of a sample."""

    def __init__(self, store: Store) -> None:
        self.files = store
        self._readers: dict[str, SplitReader] = {}

    @property
    def manifest(self) -> Any:
        return self.files.manifest

    @property
    def splits(self) -> tuple[str, ...]:
        return self.files.splits

    @property
    def class_names(self) -> tuple[str, ...] | None:
        return self.files.manifest.class_names

    @property
    def codebook(self) -> npt.NDArray[np.float32] | None:
        """The tokenizer's vectors (K, D) or (n, K, D), where the store holds them."""
        return self.files.codebook

    @property
    def synonyms(self) -> npt.NDArray[np.int32] | None:
        """Each code's nearest codes, best first (K, M), filled up with -1, where the store holds them."""
        return self.files.synonyms

    def __getitem__(self, split: str) -> SplitReader:
        if split not in self._readers:
            self._readers[split] = SplitReader(self.files, split)
        return self._readers[split]

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name}: {split.samples}" for name, split in self.manifest.splits.items())
        return f"TokenStore({self.files.storage.url!r}, {sizes})"


def open_store(
    url: str | os.PathLike[str], *, storage_options: Mapping[str, Any] | None = None
) -> TokenStore:
    """Open a store for reading: a folder, a zip file or an fsspec URL.

    Raises NotAStoreError, IncompleteStoreError, VersionError, ManifestError or DamageError.
    """
    return TokenStore(Store(url, storage_options))
