"""Random access to one aligned array of a store: the reader that the kinds of codecs' readers share.

The reader fetches bytes itself. It maps a local shard into memory and decodes chunks from there; of a remote
shard it fetches only the chunks that are needed. It verifies a chunk's checksum on the first access, and
remembers the result.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from tokenstore.codecs import ChunkCodec
from tokenstore.errors import CodecError, DamageError
from tokenstore.format import TOKENS, ArrayLayout
from tokenstore.reading.fetching import FetchedShards
from tokenstore.reading.local_shards import LocalShards
from tokenstore.reading.shards import ArrayFiles, Bytes, InMemoryShards, Payloads, Shards, all_payloads
from tokenstore.reading.store_files import StoreFiles

if TYPE_CHECKING:
    from tokenstore.reading.sample_array import SampleArrayReader

__all__ = ["ArrayReader", "Indices", "Values", "normalised", "of_indices"]

Indices: TypeAlias = npt.NDArray[np.int64]
Values: TypeAlias = npt.NDArray[Any]

CACHE_NBYTES = 2**26
"""The bytes of decoded chunks, or of samples' spans, that one array keeps in memory."""
_STREAM_NBYTES = 2**20
"""The same for a reader that is `streamed`, but at least two chunks a thread, however large they are."""
_RANGE_SAMPLES = 2**15
"""The samples of a long range that are read at once: each takes 50 bytes meanwhile."""


def normalised(indices: object, samples: int) -> Indices:
    """Return indices as (m,) int64 in [0, samples), with negative ones counted from the end.

    A slice stands for its indices, None for all, an integer for itself. Raises IndexError for anything else
    but a list of integers, and for one out of range.
    """
    if indices is None or isinstance(indices, slice):
        return np.arange(*(indices or slice(None)).indices(samples))
    array = np.asarray(indices)
    if array.ndim == 0 and array.dtype.kind in "ui":
        array = array.reshape(1)
    if array.size == 0:
        return np.empty(0, np.int64)
    if array.ndim != 1 or array.dtype.kind not in "ui":
        hint = "; of a mask, give np.flatnonzero(mask)" if array.dtype.kind == "b" else ""
        raise IndexError(f"expected a list of integers, found {array.dtype} of shape {array.shape}{hint}")
    least, most = int(array.min()), int(array.max())
    if least < -samples or most >= samples:
        outside = (array < -samples) | (array >= samples)
        raise IndexError(f"index {array[outside][0]} is out of range for {samples} samples")
    row_numbers = array.astype(np.int64)
    if least < 0:
        row_numbers[row_numbers < 0] += samples
    return row_numbers


def of_indices(values: Values, indices: object) -> Values:
    """Return values (m, ...) that were read at `indices`: for a single integer, not in a list, its own."""
    if indices is None or isinstance(indices, slice | list | tuple) or np.ndim(cast("Any", indices)):
        return values
    sample: Values = values[0]
    return sample


class ArrayReader(ABC):
    """Random access to one aligned array (N, *sample_shape) of a store.

    Safe to share between threads and after a fork, except that no other thread may read during `forget`. A
    pickled reader opens the array again at its location. A subclass has the way of reading that its codec
    allows: samples alone (`sample_array.py`), or whole chunks (`chunk_array.py`).
    """

    def __init__(self, files: ArrayFiles, codec: ChunkCodec, shards: Shards | None = None) -> None:
        self.store = files.store
        self.name = files.name
        self.files = files
        self._codec = codec
        codes = self.name.endswith(f"/{TOKENS}")
        self._cache_nbytes: int | None = None
        """The bytes of decoded chunks or spans that stay in memory; None for CACHE_NBYTES."""
        self._least_cached = 1
        self._code_limit = self.store.manifest.codebook_size if codes else None
        self._use(self._stored_shards() if shards is None else shards)

    @classmethod
    @abstractmethod
    def opened(cls, store: StoreFiles, name: str) -> ArrayReader:
        """Return a reader of an aligned array such as `train/tokens` as it is stored.

        Raises ManifestError and DamageError if the array's metadata is bad.
        """

    def __reduce__(self) -> tuple[Callable[..., ArrayReader], tuple[StoreFiles, str]]:
        return self.opened, (self.store, self.name)

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
        """The same reader with access to the spans of samples; None if only whole chunks decode."""
        return None

    @property
    def _maps_shards(self) -> bool:
        """True if chunks are needed more than once, so that shards of this machine's disk stay mapped."""
        return True

    def read(
        self,
        indices: object = None,
        out: Values | None = None,
        prefetched: Payloads | None = None,
        view: object = None,
    ) -> Values:
        """Return values (m, *sample_shape) of the samples at `indices` (m,), in their order.

        `indices` may be a slice too; None, the default, means all samples. A single integer gives the values
        of its sample (*sample_shape). `out` (m, *sample_shape), if given, is filled: C-contiguous, of the
        array's dtype or, if samples can be read alone, int32 or int64. `prefetched` is a result of
        `prefetch`.

        `view`, an integer for all samples or integers (m,), gives that view of each sample alone:
        (m, *view_shape). A sample without views is its view 0. Raises IndexError, DamageError, and
        StorageError if remote storage does not answer.
        """
        row_numbers = normalised(indices, self.layout.samples)
        views = None if view is None else self._chosen_views(view, len(row_numbers))
        if out is None:
            shape = self.layout.sample_shape if views is None else self.layout.view_shape
            out = np.empty((len(row_numbers), *shape), self.layout.dtype)
        if len(row_numbers):
            self._read_into(row_numbers, out, prefetched, views)
        return of_indices(out, indices)

    def _chosen_views(self, view: object, samples: int) -> Indices | None:
        """Return the view (m,) of each of so many samples, None without views; raises IndexError."""
        count = self.layout.views
        views = np.asarray(view)
        if views.dtype.kind not in "ui" or views.shape not in ((), (samples,)):
            raise IndexError(
                f"expected the number of a view, or one for each of {samples} samples, "
                f"found {views.dtype} of shape {views.shape}"
            )
        if views.size and not 0 <= int(views.min()) <= int(views.max()) < count:
            outside = views.min() if int(views.min()) < 0 else views.max()
            raise IndexError(f"{self.name}: expected views from 0 to {count - 1}, found {outside}")
        return None if count == 1 else np.broadcast_to(views.astype(np.int64), (samples,))

    @abstractmethod
    def _read_into(
        self, row_numbers: Indices, out: Values, prefetched: Payloads | None, views: Indices | None
    ) -> None:
        """Fill `out` with the values at some row numbers (m,), at least one, or with their `views` (m,).

        Raises as `read` does.
        """

    @abstractmethod
    def prefetch(self, indices: Indices) -> Payloads | None:
        """Fetch the chunks of samples before they are read; returns None if nothing has to be fetched.

        Raises DamageError, and StorageError if remote storage does not answer.
        """

    @abstractmethod
    def in_memory(self) -> ArrayReader:
        """Return a reader of the same array with all chunks, compressed, in this process's memory.

        Codes whose codec decodes only whole chunks (`zstd`) are packed instead. Raises DamageError.
        """

    @abstractmethod
    def streamed(self, threads: int = 1) -> ArrayReader:
        """Return a reader of the same array for one pass over it, in order, by so many threads at a time.

        No shard is mapped, and little of what was read stays in memory.
        """

    def read_range(self, start: int, stop: int) -> Values:
        """Return values (stop - start, *sample_shape) of neighbouring samples; raises as `read` does."""
        values = np.empty((stop - start, *self.layout.sample_shape), self.layout.dtype)
        for first in range(start, stop, _RANGE_SAMPLES):
            last = min(first + _RANGE_SAMPLES, stop)
            self.read(np.arange(first, last), values[first - start : last - start])
        return values

    def forget(self) -> None:
        """Release open shards and cached chunks, and forget which chunks are verified."""
        self._use(self._stored_shards())

    def reserve_cache(self, nbytes: int) -> None:
        """Let at least so many bytes of fetched chunks stay in memory for later reads."""
        self._shards.reserve_cache(nbytes)

    def prefetched_chunks(self) -> Iterator[tuple[int, Payloads | None]]:
        """Yield every chunk's number with its payload for `decode_chunk` and `spans`, many fetched at a time.

        Raises DamageError, and StorageError if remote storage does not answer.
        """
        for numbers in self.files.chunks_in_turn():
            payloads = self._shards.read_once(numbers)
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
            self.store.rule_out_change()
            raise DamageError(f"{self.where(chunk)}: expected {expected}, found {values.max()}")
        return values

    def payloads(self, start: int, stop: int) -> list[bytes]:
        """Return the bytes of the chunks [start, stop) as they are stored, without their checksums.

        Neighbouring chunks are fetched together. Raises DamageError, and StorageError if remote storage does
        not answer.
        """
        chunks = self._shards.read_once(np.arange(start, stop))
        return [payload.tobytes() for payload in chunks.payloads]

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
            return LocalShards(self.files, self._check_payload, mapped=self._maps_shards)
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
        self.layout.check_payload(chunk, payload)

    def _stream_into(self, reader: ArrayReader, threads: int) -> ArrayReader:
        """Let another reader of this array map no shard, and keep little of what it has read."""
        reader._cache_nbytes, reader._least_cached = _STREAM_NBYTES, 2 * threads
        if self.store.storage.maps_files:
            reader._use(LocalShards(self.files, self._check_payload, in_turn=True))
        return reader

    def _copy_in_memory(self, reader: ArrayReader) -> None:
        """Let another reader of this array have all chunks, as they are stored, in memory."""
        room = int(self.files.nbytes.sum())
        reader._use(InMemoryShards(self.files.chunks, room, all_payloads(self.files, reader._shards)))
