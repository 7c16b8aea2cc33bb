"""Random access to an array whose codec decodes samples alone: only the samples that are read are decoded."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from tokenstore.codecs import SampleCodec, SampleSpans
from tokenstore.errors import CodecError
from tokenstore.reading.array import CACHE_NBYTES, ArrayReader, Indices, Values
from tokenstore.reading.shards import ArrayFiles, Payloads, Shards, drop_oldest
from tokenstore.reading.store_files import StoreFiles

__all__ = ["SampleArrayReader"]


class SampleArrayReader(ArrayReader):
    """A reader of an array whose codec decodes samples alone: it decodes only the samples that are read."""

    def __init__(self, files: ArrayFiles, codec: SampleCodec, shards: Shards | None = None) -> None:
        self._sample_codec = codec
        self._view_nbytes = codec.sample_nbytes(files.layout.view_shape)
        """The bytes of each sample, or of each view of it; None where they differ."""
        super().__init__(files, codec, shards)

    @classmethod
    @override
    def opened(cls, store: StoreFiles, name: str) -> ArrayReader:
        files = ArrayFiles(store, name)
        codec = files.layout.codec.samples
        assert codec is not None, "only arrays whose samples decode alone have this reader"
        return cls(files, codec)

    @property
    @override
    def samples(self) -> SampleArrayReader:
        return self

    @override
    def _use(self, shards: Shards) -> None:
        super()._use(shards)
        self._address = np.zeros(self.files.chunks, np.uint64)
        """The addresses of chunks' payloads that keep their place; 0 before a chunk's first access."""
        self._spans: OrderedDict[int, SampleSpans] = OrderedDict()

    @override
    def _read_into(
        self, row_numbers: Indices, out: Values, prefetched: Payloads | None, views: Indices | None
    ) -> None:
        chunk, row = np.divmod(row_numbers, self.layout.chunk_samples)
        count = self.layout.views
        if views is not None:
            row = row * count + views
        elif count > 1:
            out = _of_views(out, (len(row_numbers), *self.layout.sample_shape))
            chunk, row = np.repeat(chunk, count), (row[:, None] * count + np.arange(count)).reshape(-1)
        if self._view_nbytes is None:
            self._read_spans(chunk, row, out, prefetched)
        else:
            self._read_equal(self._view_nbytes, chunk, row, out, prefetched)

    @override
    def prefetch(self, indices: Indices) -> Payloads | None:
        if self.is_local:
            return None
        return self._shards.payloads(np.unique(indices // self.layout.chunk_samples))

    @override
    def in_memory(self) -> SampleArrayReader:
        reader = type(self)(self.files, self._sample_codec)
        self._copy_in_memory(reader)
        return reader

    @override
    def streamed(self, threads: int = 1) -> ArrayReader:
        return self._stream_into(type(self)(self.files, self._sample_codec), threads)

    def spans(self, chunk: int, prefetched: Payloads | None = None) -> SampleSpans:
        """Return the spans of a chunk's samples, or of their views; raises DamageError.

        They are checked on the first access.
        """
        spans = self._spans.get(chunk)
        if spans is None:
            start, stop = self.layout.chunk_span(chunk)
            streams = (stop - start) * self.layout.views
            payload = self._payload(chunk, prefetched)
            try:
                spans = self._sample_codec.spans(payload, self.layout.view_shape, at_most=streams)
                if len(spans.addresses) != streams:
                    found = len(spans.addresses) // self.layout.views
                    raise CodecError(f"expected {stop - start} samples, found {found}")
            except CodecError as error:
                raise self.files.damage(chunk, error) from error
            if self._view_nbytes is not None:
                return spans  # quickly made again, so not worth keeping the payload for
            self._spans[chunk] = spans
            owned = spans.nbytes - (payload.nbytes if self._shards.keeps(chunk) else 0)
            most = CACHE_NBYTES if self._cache_nbytes is None else self._cache_nbytes
            while len(self._spans) * owned > most and len(self._spans) > self._least_cached:
                drop_oldest(self._spans)
        return spans

    def _read_equal(
        self, view_nbytes: int, chunk: Indices, row: Indices, out: Values, prefetched: Payloads | None
    ) -> None:
        """Read samples that all have the same number of bytes: their addresses follow from their chunk's."""
        addresses, holders = self._view_addresses(chunk, row * view_nbytes, view_nbytes, prefetched)

        def decode(samples: slice) -> None:
            self._sample_codec.decode_at(addresses[samples], out[samples])

        self._decode_all(decode, chunk, row)
        del holders  # whose bytes keep their place until here

    def _view_addresses(
        self, chunk: Indices, offset: Indices, nbytes: int, prefetched: Payloads | None
    ) -> tuple[npt.NDArray[np.uint64], object]:
        """Return the addresses (m,) of bytes at offsets (m,) of payloads, and what has them in memory."""
        unknown = np.empty(0, np.int64) if self._shards.fetches else np.flatnonzero(self._address[chunk] == 0)
        pieces = self._shards.pieces(chunk[unknown], offset[unknown], nbytes) if len(unknown) else None
        if pieces is None:
            base, payloads = self._placed(chunk, prefetched)
            return base + offset.astype(np.uint64), payloads
        addresses = self._address[chunk] + offset.astype(np.uint64)
        addresses[unknown] = pieces.addresses
        rest = np.flatnonzero(addresses == 0)
        base, payloads = self._placed(chunk[rest], None)
        addresses[rest] = base + offset[rest].astype(np.uint64)
        return addresses, (pieces, payloads)

    def _placed(
        self, chunk: Indices, prefetched: Payloads | None
    ) -> tuple[npt.NDArray[np.uint64], Payloads | None]:
        """Return the addresses (m,) of the payloads of chunks (m,), and those that were read for it.

        Addresses are right as long as these payloads live.
        """
        if self._shards.fetches:
            places = None if prefetched is None else prefetched.places(chunk)
            if prefetched is None or places is None:
                prefetched = self._shards.payloads(np.unique(chunk))
                places = np.searchsorted(prefetched.chunks, chunk)
            return prefetched.addresses[places], prefetched
        base = self._address[chunk]
        if base.all():
            return base, None
        unknown = base == 0
        payloads = self._shards.payloads(np.unique(chunk[unknown]))
        base[unknown] = payloads.addresses[np.searchsorted(payloads.chunks, chunk[unknown])]
        self._keep(payloads)
        return base, payloads

    def _keep(self, payloads: Payloads) -> None:
        """Take note of those payloads that keep their place in memory."""
        self._address[payloads.chunks[payloads.lasting]] = payloads.addresses[payloads.lasting]

    def _read_spans(self, chunk: Indices, row: Indices, out: Values, prefetched: Payloads | None) -> None:
        """Read samples that differ in length, by the spans of their chunks' samples."""
        numbers, inverse = np.unique(chunk, return_inverse=True)
        if prefetched is None:
            unknown = [number for number in numbers.tolist() if number not in self._spans]
            prefetched = self._shards.payloads(np.array(unknown, np.int64)) if unknown else None
        spans = [self.spans(number, prefetched) for number in numbers.tolist()]
        places = inverse.reshape(-1)

        def decode(samples: slice) -> None:
            self._sample_codec.decode_spans(spans, places[samples], row[samples], out[samples])

        self._decode_all(decode, chunk, row)

    def _decode_all(self, decode: Callable[[slice], None], chunk: Indices, row: Indices) -> None:
        """Decode all samples, or views, at once; after an error one by one, to name the damaged sample."""
        try:
            decode(slice(None))
        except CodecError:
            for at, (number, position) in enumerate(zip(chunk.tolist(), row.tolist(), strict=True)):
                try:
                    decode(slice(at, at + 1))
                except CodecError as error:
                    sample = position // self.layout.views
                    raise self.files.damage(number, error.at(None), sample) from error
            raise


def _of_views(out: Values, shape: tuple[int, ...]) -> Values:
    """Return a buffer (m, V, *grid) as one of all views (m * V, *grid), in the same memory."""
    if out.shape != shape or not out.flags.c_contiguous:
        raise CodecError(
            f"expected a C-contiguous buffer {shape} for the codes, found {out.shape} with strides "
            f"{out.strides}"
        )
    return out.reshape(-1, *shape[2:])
