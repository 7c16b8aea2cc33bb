"""The tokens of one split, compressed in a device's memory and decoded there."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tokenstore.errors import CodecError, DamageError, StoreError
from tokenstore.loading.resident.bitpack import unpack
from tokenstore.loading.resident.context import ContextDecoder
from tokenstore.reading import ArrayReader, SampleArrayReader, normalised

__all__ = ["ResidentTokens"]


class ResidentTokens:
    """The tokens of a split (N, *grid) in a device's memory, in as many bytes as the store's shards.

    The constructor reads every chunk once and checks it. Raises StoreError where tokens are stored by neither
    of the codecs `bitpack` and `context`, and DamageError where the store is damaged.
    """

    def __init__(self, tokens: ArrayReader, device: torch.device | str) -> None:
        layout = tokens.layout
        reader, form = tokens.samples, layout.codec.device_form
        if reader is None or form is None:
            raise StoreError(
                f"{tokens.store.storage}/{tokens.name}: expected tokens of the codec bitpack or context, "
                f"found {layout.codec.name}. Write the store anew with one of those"
            )
        self.grid = layout.sample_shape
        self._where = f"{tokens.store.storage}/{tokens.name}"
        self._codebook_size = form.codebook_size
        self._decoder = None
        if form.model is not None:
            self._decoder = ContextDecoder(form.model, self.grid, device)
        self._offsets = np.empty(layout.samples, np.int64)
        self._lengths = np.empty(layout.samples, np.int64)
        self._packed = np.empty(layout.samples, np.bool_)
        self._pool = self._loaded(reader, torch.device(device))

    def __len__(self) -> int:
        return len(self._offsets)

    @property
    def device(self) -> torch.device:
        """The device that the tokens are on."""
        return self._pool.device

    @property
    def nbytes(self) -> int:
        """The bytes that the tokens take on the device, without a context model's tables."""
        return self._pool.untyped_storage().nbytes()

    def read(self, indices: object) -> Tensor:
        """Return codes (m, *grid) int64, on the device, of the samples at `indices` (m,), in their order.

        Raises IndexError, and DamageError where a sample's bytes are not those that an encoder wrote.
        """
        row_numbers = normalised(indices.cpu().numpy() if isinstance(indices, Tensor) else indices, len(self))
        packed = self._packed[row_numbers]
        try:
            if packed.all() or not packed.any():
                return self._decoded(row_numbers, bool(packed.all()))
            codes = torch.empty((len(row_numbers), *self.grid), dtype=torch.int64, device=self.device)
            for group in (packed, ~packed):
                places = torch.from_numpy(np.flatnonzero(group)).to(self.device)
                codes.index_copy_(0, places, self._decoded(row_numbers[group], group is packed))
            return codes
        except CodecError as error:
            raise DamageError(f"{self._where}: {error}") from error

    def _decoded(self, row_numbers: npt.NDArray[np.int64], packed: bool) -> Tensor:
        offsets = torch.from_numpy(self._offsets[row_numbers]).to(self.device)
        if not packed and self._decoder is not None:
            return self._decoder.decode(
                self._pool, offsets, torch.from_numpy(self._lengths[row_numbers]).to(self.device)
            )
        codes = unpack(self._pool, offsets, math.prod(self.grid), self._codebook_size)
        return codes.reshape(-1, *self.grid)

    def _loaded(self, tokens: SampleArrayReader, device: torch.device) -> Tensor:
        """Copy all chunks' payloads to the device, (nbytes,) uint8, and note where each sample is in them."""
        layout = tokens.layout
        files = (f"{tokens.name}/{layout.shard_file(shard)}" for shard in range(layout.shards))
        room = sum(tokens.store.record(file).size for file in files)
        pool = torch.empty(room, dtype=torch.uint8, device=device)
        start = 0
        for chunk, payloads in tokens.prefetched_chunks():
            spans = tokens.spans(chunk, payloads)
            samples = slice(*layout.chunk_span(chunk))
            self._offsets[samples] = start + spans.addresses - spans.payload.ctypes.data
            self._lengths[samples] = spans.lengths
            self._packed[samples] = spans.packed
            stop = start + len(spans.payload)
            pool[start:stop] = torch.from_numpy(spans.payload.copy())
            start = stop
        return pool[:start]
