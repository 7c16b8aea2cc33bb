"""Decoding of the context codec's streams where they lie in a device's memory."""

from __future__ import annotations

import importlib.util
from typing import Literal

import torch
from torch import Tensor

from tokenstore.codecs.context.model import ContextModel
from tokenstore.errors import CodecError
from tokenstore.loading.resident.context_torch import TorchDecoder
from tokenstore.loading.resident.pool import check_pool
from tokenstore.loading.resident.tables import tables

__all__ = ["ContextDecoder"]


class ContextDecoder:
    """Decodes samples of one model and grid, many at once, bit for bit as on the processor.

    `kernel` is "torch", whose operations any device has, "triton", one kernel that decodes a sample a warp,
    or "auto": that kernel on CUDA devices where Triton is installed. Raises CodecError where the grid is none
    of the model's.
    """

    def __init__(
        self,
        model: ContextModel,
        grid: tuple[int, ...],
        device: torch.device | str,
        *,
        kernel: Literal["auto", "torch", "triton"] = "auto",
    ) -> None:
        self._tables = tables(model, grid, torch.device(device))
        self.device = self._tables.rows.device
        if kernel == "auto":
            there = self.device.type == "cuda" and importlib.util.find_spec("triton") is not None
            kernel = "triton" if there else "torch"
        self.kernel: Literal["torch", "triton"] = kernel
        if kernel == "triton":
            from tokenstore.loading.resident.context_triton import TritonDecoder

            self._decode: TorchDecoder | TritonDecoder = TritonDecoder(self._tables)
        else:
            self._decode = TorchDecoder(self._tables)

    def decode(self, pool: Tensor, offsets: Tensor, lengths: Tensor) -> Tensor:
        """Codes (m, *grid) int64 of the streams of `lengths` (m,) bytes at `offsets` (m,) of `pool`, uint8.

        Raises CodecError, naming the first such sample, where a stream does not lie inside the pool, or is
        none that an encoder wrote.
        """
        if pool.device != self.device:
            raise CodecError(f"expected streams on {self.device}, found them on {pool.device}")
        check_pool(pool, offsets, lengths)
        # subtle: in this order, since the sum of an offset and a length may overflow
        outside = (
            (offsets < 0) | (lengths < 0) | (lengths > pool.numel()) | (offsets > pool.numel() - lengths)
        )
        if len(offsets) and bool(outside.any()):
            sample = int(outside.int().argmax())
            raise CodecError(
                f"sample {sample}: expected a stream inside {pool.numel()} bytes, "
                f"found {int(lengths[sample])} from {int(offsets[sample])}"
            )
        if not len(offsets):
            return torch.empty((0, *self._tables.grid), dtype=torch.int64, device=self.device)
        codes, wrong = self._decode(pool, offsets, lengths)
        if bool(wrong.any()):
            sample = int(wrong.int().argmax())
            raise CodecError(f"sample {sample}: expected a stream of the context codec, found other bytes")
        return codes.reshape(-1, *self._tables.grid)
