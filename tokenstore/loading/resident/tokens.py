"""The tokens of one split, compressed in a device's memory and decoded there."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tokenstore.codecs import Bitpack, SampleSpans
from tokenstore.errors import CodecError, DamageError, StoreError
from tokenstore.loading.resident.bitpack import unpack
from tokenstore.loading.resident.context import ContextDecoder
from tokenstore.reading import ArrayReader, SampleArrayReader, normalised
from tokenstore.reading.shards import Payloads

__all__ = ["ResidentTokens"]


class ResidentTokens:
    """The tokens of a split (N, *grid) in a device's memory, in as many bytes as the store's shards.

    Views that are coded given others, and codes whose digits are coded, are packed instead, which takes more.
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
        self.grid, self._views = layout.view_shape, layout.views
        self._where = f"{tokens.store.storage}/{tokens.name}"
        self._codebook_size = form.codebook_size
        self._decoder = None
        given = layout.codec.given_views
        is_given = given is not None and given.model is not None
        packs = is_given or layout.codec.digits is not None
        self._packer = Bitpack(form.codebook_size, self._views) if packs else None
        if form.model is not None and self._packer is None:
            self._decoder = ContextDecoder(form.model, self.grid, device)
        grids = layout.samples * self._views
        self._offsets = np.empty(grids, np.int64)
        self._lengths = np.empty(grids, np.int64)
        self._packed = np.empty(grids, np.bool_)
        self._pool = self._loaded(reader, torch.device(device))

    def __len__(self) -> int:
        return len(self._offsets) // self._views

    @property
    def device(self) -> torch.device:
        """The device that the tokens are on."""
        return self._pool.device

    @property
    def nbytes(self) -> int:
        """The bytes that the tokens take on the device, without a context model's tables."""
        return self._pool.untyped_storage().nbytes()

    def read(self, indices: object, view: npt.NDArray[np.int64] | int | None = None) -> Tensor:
        """Return codes (m, *grid) int64, on the device, of the samples at `indices` (m,), in their order.

        `view`, an integer or integers (m,), is the one that is read, by default all: (m, V, *grid). Raises
        IndexError, and DamageError where a sample's bytes are not those that an encoder wrote.
        """
        row_numbers = normalised(indices.cpu().numpy() if isinstance(indices, Tensor) else indices, len(self))
        if self._views == 1:
            return self._grids(row_numbers)
        if view is not None:
            return self._grids(row_numbers * self._views + view)
        grids = (row_numbers[:, None] * self._views + np.arange(self._views)).reshape(-1)
        return self._grids(grids).reshape(-1, self._views, *self.grid)

    def _grids(self, row_numbers: npt.NDArray[np.int64]) -> Tensor:
        """Return codes (m, *grid) of samples, or of views by their numbers among all views of all samples."""
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
        if self._packer is None:
            files = (f"{tokens.name}/{layout.shard_file(shard)}" for shard in range(layout.shards))
            room = sum(tokens.store.record(file).size for file in files)
        else:
            room = len(self._offsets) * self._packer.sample_nbytes(self.grid)
        pool = torch.empty(room, dtype=torch.uint8, device=device)
        start = 0
        for chunk, payloads in tokens.prefetched_chunks():
            spans = self._spans(tokens, chunk, payloads)
            samples = slice(*(edge * self._views for edge in layout.chunk_span(chunk)))
            self._offsets[samples] = start + spans.addresses - spans.payload.ctypes.data
            self._lengths[samples] = spans.lengths
            self._packed[samples] = spans.packed
            stop = start + len(spans.payload)
            pool[start:stop] = torch.from_numpy(spans.payload.copy())
            start = stop
        return pool[:start]

    def _spans(self, tokens: SampleArrayReader, chunk: int, payloads: Payloads | None) -> SampleSpans:
        """Return the spans of a chunk's samples, or views, as they are stored or packed."""
        if self._packer is None:
            return tokens.spans(chunk, payloads)
        codes = tokens.decode_chunk(chunk, payloads)
        packed = np.frombuffer(self._packer.encode(codes, len(codes), 0), np.uint8)
        return self._packer.spans(packed, self.grid, len(codes) * self._views)
