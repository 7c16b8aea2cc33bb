"""Random access to an array of ragged samples: a sample is found by a short walk from a mark in its chunk.

The marks of a chunk are the places of every few samples in its payload. They are made when the chunk is first
read, and stay in a flat array, half a byte for each sample.
"""

from __future__ import annotations

import numpy as np
from typing_extensions import override

from tokenstore.codecs import MarkedCodec
from tokenstore.reading.array import Indices, Values
from tokenstore.reading.sample_array import SampleArrayReader
from tokenstore.reading.shards import Payloads, Shards

__all__ = ["MarkedArrayReader"]


class MarkedArrayReader(SampleArrayReader):
    """A reader of an array whose codec has marks. It decodes only the samples that are read."""

    @property
    def _marked_codec(self) -> MarkedCodec:
        codec = self._sample_codec.marked
        assert codec is not None, "only arrays with marks have this reader"
        return codec

    @override
    def _use(self, shards: Shards) -> None:
        super()._use(shards)
        marks = -(-self.layout.chunk_samples // self._marked_codec.mark_samples)
        self._marks = np.zeros((self.files.chunks, marks + 1), np.uint32)
        """The marks in payloads that keep their place, and the bytes of each; 0 before the first access."""

    @override
    def _read_into(
        self, row_numbers: Indices, out: Values, prefetched: Payloads | None, views: Indices | None
    ) -> None:
        chunk, row = np.divmod(row_numbers, self.layout.chunk_samples)
        base, payloads = self._placed(chunk, prefetched)
        mark, behind = np.divmod(row, self._marked_codec.mark_samples)
        # subtle: the bytes first, which another thread enters last: where they are known, the marks are too
        nbytes = self._marks[chunk, -1].astype(np.int64)
        start = self._marks[chunk, mark].astype(np.int64)
        if payloads is not None and not nbytes.all():  # payloads that do not stay have no marks but the first
            unknown = nbytes == 0
            places = np.searchsorted(payloads.chunks, chunk[unknown])
            nbytes[unknown] = np.array([len(payload) for payload in payloads.payloads], np.int64)[places]
            start[unknown], behind[unknown] = self._marked_codec.first_mark, row[unknown]
        addresses, left = base + start.astype(np.uint64), nbytes - start

        def decode(samples: slice) -> None:
            self._marked_codec.decode_behind(addresses[samples], left[samples], behind[samples], out[samples])

        self._decode_all(decode, chunk, row)
        del payloads  # which keep their place until here

    @override
    def _keep(self, payloads: Payloads) -> None:
        for place in np.flatnonzero(payloads.lasting).tolist():
            payload = payloads.payloads[place]
            row = self._marks[payloads.chunks[place]]
            row[:-1] = self._marked_codec.marks(payload)
            row[-1] = len(payload)
        super()._keep(payloads)  # subtle: last, since other threads take an address for marks too
