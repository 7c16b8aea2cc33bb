"""Random access to a store: indices to codes and to the values that go with them.

The reader fetches bytes itself. A local shard is mapped into memory and its chunks are decoded from
there; of a remote one, only the chunks that are needed are fetched. A chunk's checksum is verified when
the chunk is first touched, and remembered.
"""

from __future__ import annotations

import math
import os
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, Self, TypeAlias
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt

from tokenstore.codecs import bitpack
from tokenstore.codecs.chunks import Bitpack, ChunkCodec
from tokenstore.codecs.context.codec import Context, Located
from tokenstore.errors import CodecError, DamageError, StoreError
from tokenstore.format.layout import LABELS, SAMPLES_TABLE, TOKENS, ArrayLayout
from tokenstore.format.manifest import Manifest
from tokenstore.reading.fetching import FetchedShards
from tokenstore.reading.shards import (
    HELD_CHUNKS,
    MAX_OPEN_COLUMN_SHARDS,
    MAX_OPEN_SHARDS,
    ArrayFiles,
    Bytes,
    Held,
    HeldShards,
    LocalShards,
    Shards,
    all_payloads,
    drop_oldest,
)
from tokenstore.reading.store_files import Store
from tokenstore.storage.cache import Cache
from tokenstore.storage.places import Storage
from tokenstore.storage.remote import Retries

Indices: TypeAlias = npt.NDArray[np.int64]
Values: TypeAlias = npt.NDArray[Any]

CACHE_NBYTES = 2**26
"""Decoded or located chunks that one array keeps."""
_SMALL_SAMPLE_NBYTES = 16
"""Arrays of samples up to this size, such as labels, are kept whole once decoded."""
_SMALL_ARRAY_NBYTES = 2**30


def normalised(indices: object, samples: int) -> Indices:
    """Indices (m,) int64 in [0, samples), negative ones counted from the end; raises IndexError."""
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


class ArrayReader:
    """Random access to one aligned array (N, *sample_shape) of a store.

    Safe to share between threads and after a fork. Only `forget` has to be called while no other thread
    reads. Pickles to its location.
    """

    def __init__(self, store: Store, name: str) -> None:
        self.store = store
        self.name = name
        self.files = ArrayFiles(store, name)
        self._code_limit = store.manifest.codebook_size if name.endswith(f"/{TOKENS}") else None
        self.forget()

    def __reduce__(self) -> tuple[type[ArrayReader], tuple[Store, str]]:
        return ArrayReader, (self.store, self.name)

    @property
    def layout(self) -> ArrayLayout:
        return self.files.layout

    @property
    def is_local(self) -> bool:
        """Whether samples are read from this machine's disk or memory, wherever they are, at no cost."""
        return not isinstance(self._shards, FetchedShards)

    def forget(self) -> None:
        """Let go of open shards, cached chunks, and of what was verified."""
        self._codec: ChunkCodec = self.layout.codec
        packed = isinstance(self._codec, Bitpack | Context)
        most = MAX_OPEN_SHARDS if packed else MAX_OPEN_COLUMN_SHARDS
        self._use(
            LocalShards(self.files, self._check_payload, most)
            if self.store.storage.maps_files
            else FetchedShards(self.files, self._check_payload, self.store.cache)
        )

    def _use(self, shards: Shards) -> None:
        self._shards: Shards = shards
        self._address = np.zeros(self.files.chunks, np.uint64)
        """Where a stable chunk's payload is; 0 while it was not touched."""
        self._decoded: OrderedDict[int, Values] = OrderedDict()
        self._located: OrderedDict[int, Located] = OrderedDict()
        rows = len(self) if self._keeps_all else 0
        self._values = np.empty((rows, *self.layout.sample_shape), self.layout.dtype)
        self._is_decoded = np.zeros(self.files.chunks, np.bool_)

    def in_memory(self) -> Self:
        """The same array with all its chunks, compressed as they are, in this process's memory.

        Codes whose codec has no random access (`zstd`) are packed instead. Raises DamageError.
        """
        reader = type(self)(self.store, self.name)
        repacks = self._code_limit is not None and not isinstance(self._codec, Bitpack | Context)
        if self.store.storage.maps_files:
            # Mapped pages would count as memory of this process, and stay in it.
            most = 1 if repacks else self.layout.shards
            reader._use(LocalShards(self.files, self._check_payload, most, mapped=False))
        payloads = all_payloads(self.files, reader._shards)
        if repacks:
            assert self._code_limit is not None
            room = len(self) * bitpack.sample_nbytes(math.prod(self.layout.sample_shape), self._code_limit)
            held = HeldShards(self.files.chunks, room, reader._packed_payloads(self._code_limit))
            reader._codec = Bitpack(self._code_limit)
            reader._use(held)
        elif self.store.storage.maps_files:
            deque(payloads, maxlen=0)  # the shards stay, once their chunks were checked
        else:
            room = sum(self.files.record_nbytes(shard) for shard in range(self.layout.shards))
            reader._use(HeldShards(self.files.chunks, room, payloads))
        return reader

    def _packed_payloads(self, codebook_size: int) -> Iterator[Bytes]:
        for chunk, payload in enumerate(all_payloads(self.files, self._shards)):
            codes = self.decode_chunk(chunk, Held(np.array([chunk]), [payload]))
            yield bitpack.pack(codes.reshape(len(codes), -1), codebook_size).reshape(-1)

    def __len__(self) -> int:
        return self.layout.samples

    def read(self, indices: object, out: Values | None = None, held: Held | None = None) -> Values:
        """Values (m, *sample_shape) of the samples at `indices` (m,), in their order.

        `out` may be given to be filled: C-contiguous, of the array's dtype or, for codes that are packed
        or coded by context, int32 or int64. `held` are chunks that `hold` gave. Raises IndexError,
        DamageError, and StorageError where remote storage does not answer.
        """
        wanted = normalised(indices, self.layout.samples)
        if out is None:
            out = np.empty((len(wanted), *self.layout.sample_shape), self.layout.dtype)
        if not len(wanted):
            return out
        chunk, row = np.divmod(wanted, self.layout.chunk_samples)
        if isinstance(self._codec, Bitpack):
            self._read_packed(self._codec, chunk, row, out, held)
        elif isinstance(self._codec, Context):
            self._read_coded(self._codec, chunk, row, out, held)
        elif self._keeps_all:
            out[...] = self._small_values(chunk)[wanted]
        else:
            self._read_decoded(chunk, row, out)
        return out

    def hold(self, indices: Indices) -> Held | None:
        """Fetch the chunks of samples ahead of reading them; None where reading needs nothing fetched."""
        if self.is_local or not isinstance(self._codec, Bitpack | Context):
            return None
        return self._shards.hold(np.unique(indices // self.layout.chunk_samples))

    def held_in_turn(self) -> Iterator[tuple[int, Held | None]]:
        """Every chunk's number, and what `located` takes of it; many are fetched at a time."""
        for start in range(0, self.files.chunks, HELD_CHUNKS):
            numbers = np.arange(start, min(start + HELD_CHUNKS, self.files.chunks))
            held = None if self.is_local else self._shards.hold(numbers)
            yield from ((number, held) for number in numbers.tolist())

    def keep(self, nbytes: int) -> None:
        """Let at least so many bytes of fetched chunks stay in memory for reads that follow."""
        if isinstance(self._shards, FetchedShards):
            self._shards.keep_nbytes = max(self._shards.keep_nbytes, nbytes)

    def decode_chunk(self, chunk: int, held: Held | None = None) -> Values:
        """The values of one chunk, decoded; raises DamageError."""
        start, stop = self.layout.chunk_span(chunk)
        values = np.empty((stop - start, *self.layout.sample_shape), self.layout.dtype)
        payload = self._payload(chunk, held)
        try:
            self._codec.decode(payload, values)
        except CodecError as error:
            raise self.files.damage(chunk, error) from error
        if self._code_limit is not None and int(values.max()) >= self._code_limit:
            expected = f"codes from 0 to {self._code_limit - 1}"
            raise DamageError(f"{self.where(chunk)}: expected {expected}, found {values.max()}")
        return values

    def shard_opens(self, shard: int) -> bool:
        """Whether a shard's size and index are as promised."""
        try:
            self._shards.open(shard)
        except DamageError:
            return False
        return True

    def where(self, chunk: int) -> str:
        """Shard, chunk and samples, for a message."""
        return self.files.where(chunk)

    def located(self, chunk: int, held: Held | None = None) -> Located:
        """Where each sample of a chunk of `bitpack` or `context` lies; checked when first touched."""
        codec = self._codec
        if isinstance(codec, Bitpack):
            return codec.locate(self._payload(chunk, held), self.layout.sample_shape)
        assert isinstance(codec, Context)
        kept = self._located.get(chunk)
        if kept is None:
            start, stop = self.layout.chunk_span(chunk)
            payload = self._payload(chunk, held)
            try:
                kept = codec.locate(payload, self.layout.sample_shape, stop - start)
                if len(kept.addresses) != stop - start:
                    raise CodecError(f"expected {stop - start} samples, found {len(kept.addresses)}")
            except CodecError as error:
                raise self.files.damage(chunk, error) from error
            self._located[chunk] = kept
            owned = kept.nbytes - (payload.nbytes if self._shards.stable else 0)
            while len(self._located) * owned > CACHE_NBYTES and len(self._located) > 1:
                drop_oldest(self._located)
        return kept

    def _payload(self, chunk: int, held: Held | None) -> Bytes:
        places = None if held is None else held.places(np.array([chunk]))
        return self._shards.payload(chunk) if held is None or places is None else held.payloads[places[0]]

    def _check_payload(self, chunk: int, payload: Bytes) -> None:
        if isinstance(self.layout.codec, Bitpack):
            start, stop = self.layout.chunk_span(chunk)
            self.layout.codec.check_size(payload, stop - start, math.prod(self.layout.sample_shape))

    def _read_packed(
        self, codec: Bitpack, chunk: Indices, row: Indices, out: Values, held: Held | None
    ) -> None:
        codes = out.reshape(len(out), -1)
        sample_nbytes = bitpack.sample_nbytes(codes.shape[1], codec.codebook_size)
        if self._shards.stable:
            base = self._address[chunk]
            if not base.all():
                for number in np.unique(chunk[base == 0]).tolist():
                    self._address[number] = self._shards.payload(number).ctypes.data
                base = self._address[chunk]
        else:
            places = None if held is None else held.places(chunk)
            if held is None or places is None:
                held = self._shards.hold(np.unique(chunk))
                places = np.searchsorted(held.chunks, chunk)
            base = held.addresses[places]
        addresses = base + (row * sample_nbytes).astype(np.uint64)

        def unpack(samples: slice) -> None:
            bitpack.unpack_at(addresses[samples], codes.shape[1], codec.codebook_size, codes[samples])

        self._decode_all(unpack, chunk, row)

    def _read_coded(
        self, codec: Context, chunk: Indices, row: Indices, out: Values, held: Held | None
    ) -> None:
        numbers, inverse = np.unique(chunk, return_inverse=True)
        if held is None and not self._shards.stable:
            unknown = [number for number in numbers.tolist() if number not in self._located]
            held = self._shards.hold(np.array(unknown, np.int64)) if unknown else None
        located = [self.located(number, held) for number in numbers.tolist()]
        places = inverse.reshape(-1)

        def decode(samples: slice) -> None:
            codec.decode_at(located, places[samples], row[samples], out[samples])

        self._decode_all(decode, chunk, row)

    def _decode_all(self, decode: Callable[[slice], None], chunk: Indices, row: Indices) -> None:
        """Decode samples, all at once; one by one after an error, to name the one that is damaged."""
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

    def _read_decoded(self, chunk: Indices, row: Indices, out: Values) -> None:
        numbers = np.unique(chunk)
        unknown = [number for number in numbers.tolist() if number not in self._decoded]
        held = self._shards.hold(np.array(unknown, np.int64)) if unknown and not self.is_local else None
        for number in numbers.tolist():
            here = chunk == number
            out[here] = self._decoded_chunk(number, held)[row[here]]

    @cached_property
    def _keeps_all(self) -> bool:
        sample_nbytes = self.layout.dtype.itemsize * math.prod(self.layout.sample_shape)
        return sample_nbytes <= _SMALL_SAMPLE_NBYTES and len(self) * sample_nbytes <= _SMALL_ARRAY_NBYTES

    def _small_values(self, chunk: Indices) -> Values:
        """All values, of which those of some chunks are decoded; all are where they have to be fetched."""
        if not self._is_decoded[chunk].all():
            missing = np.unique(chunk[~self._is_decoded[chunk]]).tolist()
            if not self.is_local:
                missing = np.flatnonzero(~self._is_decoded).tolist()
            held = None if self.is_local else self._shards.hold(np.array(missing, np.int64))
            for number in missing:
                self._values[slice(*self.layout.chunk_span(number))] = self.decode_chunk(number, held)
                self._is_decoded[number] = True
        return self._values

    def _decoded_chunk(self, chunk: int, held: Held | None) -> Values:
        values = self._decoded.get(chunk)
        if values is None:
            values = self._decoded[chunk] = self.decode_chunk(chunk, held)
            while len(self._decoded) * values.nbytes > CACHE_NBYTES and len(self._decoded) > 1:
                drop_oldest(self._decoded)
        return values


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
        self._in_memory: WeakValueDictionary[tuple[str, ...], SplitReader] = WeakValueDictionary()

    def __reduce__(self) -> tuple[type[SplitReader], tuple[Store, str]]:
        return SplitReader, (self.store, self.name)

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

    def array(self, name: str) -> ArrayReader:
        """An aligned array; raises StoreError where there is none of that name."""
        if name not in self.arrays:
            raise StoreError(
                f"{self.store.storage}/{self.name}: no array {name!r}; it has {', '.join(self.arrays)}"
            )
        return self.arrays[name]

    def read(self, name: str, indices: object, out: Values | None = None, held: Held | None = None) -> Values:
        """Values (m, *shape) of an aligned array at `indices` (m,), as `ArrayReader.read` gives them.

        Raises IndexError, StoreError, DamageError.
        """
        return self.array(name).read(indices, out, held)

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.arrays)

    def described(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Shape and dtype of one sample of an aligned array; raises StoreError."""
        layout = self.array(name).layout
        return layout.sample_shape, layout.dtype

    @cached_property
    def labels(self) -> npt.NDArray[np.int32] | None:
        """All labels (N,), or None where the split has none."""
        if LABELS not in self.arrays:
            return None
        return self.read(LABELS, np.arange(len(self)))

    @property
    def manifests(self) -> tuple[Manifest, ...]:
        return (self.store.manifest,)

    @property
    def fingerprint(self) -> str:
        """What the samples are, wherever they lie."""
        return f"{self.store.root_digest}/{self.name}"

    @property
    def is_local(self) -> bool:
        return self.arrays[TOKENS].is_local

    @cached_property
    def starts(self) -> Indices:
        """First sample of every run that is fetched at once, and the number of samples: (runs + 1,)."""
        return self.arrays[TOKENS].files.run_starts

    def hold(self, indices: Indices) -> Held | None:
        """Fetch the tokens of samples ahead of reading them; None where nothing has to be fetched."""
        return self.arrays[TOKENS].hold(indices)

    def keep(self, nbytes: int) -> None:
        """Let at least so many bytes of fetched tokens stay in memory for reads that follow."""
        self.arrays[TOKENS].keep(nbytes)

    def in_memory(self, columns: Sequence[str]) -> SplitReader:
        """The same split with some of its arrays, compressed as they are, in this process's memory."""
        asked = tuple(sorted(set(columns)))
        split = self._in_memory.get(asked)  # several views of a split share it
        if split is None:
            split = self._in_memory[asked] = SplitReader(self.store, self.name)
            split.arrays.update({name: self.array(name).in_memory() for name in asked})
        return split

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
    url: str | os.PathLike[str],
    *,
    storage_options: Mapping[str, Any] | None = None,
    retries: Retries | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    cache_limit: int | str = "10GB",
    cache_policy: Literal["lru", "pin"] = "lru",
) -> TokenStore:
    """Open a store for reading: a folder, a zip file or an fsspec URL.

    What is fetched of a store that is not on this machine is kept in the folder `cache_dir`, where one is
    named, up to `cache_limit` (bytes, or a text such as "10GB"); several processes and stores may share it.
    `retries` says how long requests are tried. Raises NotAStoreError, IncompleteStoreError, VersionError,
    ManifestError, DamageError, and StorageError where storage does not answer; ValueError for a limit that
    cannot be.
    """
    cache = None if cache_dir is None else Cache(cache_dir, cache_limit, cache_policy)
    return TokenStore(Store(Storage(url, storage_options, retries), cache=cache))
