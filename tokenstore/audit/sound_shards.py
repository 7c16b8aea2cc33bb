"""The check of one shard whose bytes come piece by piece: index, checksums, and what the chunks decode to.

Chunks are checked where they lie in a piece. Only the chunk across the border of two pieces is copied.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tokenstore.audit.meaning import value_out_of_range
from tokenstore.errors import CodecError
from tokenstore.format import ArrayLayout, Manifest, sharding

__all__ = ["ShardCheck"]

_VALUES_NBYTES = 2**20
"""The bytes of values that are decoded before they are looked at."""


class ShardCheck:
    """The chunks of one shard of an array, checked in order.

    `index` (chunks, 2) is that of the shard, checked already. The values are copied to
    `copy_to`, if it is given, an array of the shape of the whole.
    """

    def __init__(
        self,
        layout: ArrayLayout,
        name: str,
        manifest: Manifest,
        shard: int,
        index: sharding.Index,
        copy_to: npt.NDArray[Any] | None = None,
    ) -> None:
        self._layout, self._name, self._manifest = layout, name, manifest
        self._first = shard * layout.chunks_per_shard
        self._bounds = np.concatenate([[0], index.sum(axis=1)]).astype(np.int64)
        """The beginning of each chunk, and the end of the last."""
        self._copy_to = copy_to
        self._chunk, self._position = 0, 0
        self._left: list[npt.NDArray[np.uint8]] = []
        """The bytes of a chunk whose other bytes are in the next piece."""
        self._step = max(1, min(_VALUES_NBYTES // layout.chunk_nbytes, len(index)))
        samples = self._step * layout.chunk_samples
        self._values = np.empty((samples, *layout.sample_shape), layout.dtype)
        self._codec = layout.codec.samples
        self._view_nbytes = None if self._codec is None else self._codec.sample_nbytes(layout.view_shape)

    @property
    def is_complete(self) -> bool:
        """True if all chunks have been checked."""
        return self._chunk == len(self._bounds) - 1

    def take(self, piece: bytes | memoryview) -> None:
        """Check the chunks that end in the next bytes of the shard, which may change after this call.

        Raises CodecError for a chunk that is not right.
        """
        data, begin = np.frombuffer(piece, np.uint8), self._position
        self._position += len(data)
        bounds = self._bounds - begin
        ready = int(np.searchsorted(bounds[1:], len(data), side="right"))
        if self._left and ready > self._chunk:
            stored = np.concatenate([*self._left, data[: bounds[self._chunk + 1]]])
            self._left.clear()
            self._check(stored, np.array([0, len(stored)]))
        for start in range(self._chunk, ready, self._step):
            self._check(data, bounds[start : min(start + self._step, ready) + 1])
        if not self.is_complete:
            self._left.append(data[max(0, int(bounds[self._chunk])) :].copy())

    def _check(self, data: npt.NDArray[np.uint8], bounds: npt.NDArray[np.int64]) -> None:
        """Check the next chunks, which lie between `bounds` (chunks + 1,) of `data`."""
        layout, first = self._layout, self._first + self._chunk
        payloads = []
        for chunk, (start, stop) in enumerate(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)):
            payloads.append(sharding.checked_payload(data[start:stop]))
            layout.check_payload(first + chunk, payloads[-1])
        begin, end = layout.chunk_span(first)[0], layout.chunk_span(first + len(payloads) - 1)[1]
        values = self._values[: end - begin]
        if self._codec is not None and self._view_nbytes is not None:
            rows = self._view_nbytes * np.arange(layout.chunk_samples * layout.views)
            views = values.reshape(-1, *layout.view_shape)
            addresses = (data.ctypes.data + bounds[:-1, None] + rows).reshape(-1)[: len(views)]
            self._codec.decode_at(addresses.astype(np.uint64), views)
        else:
            for chunk, payload in enumerate(payloads):
                row, stop = layout.chunk_span(first + chunk)
                layout.codec.decode(payload, values[row - begin : stop - begin])
        problem = value_out_of_range(values, self._name, self._manifest, layout.form)
        if problem is not None:
            raise CodecError(problem)
        if self._copy_to is not None:
            self._copy_to[begin:end] = values
        self._chunk += len(payloads)
