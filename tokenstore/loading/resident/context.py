"""The decoder of the context codec's streams in a device's memory."""

from __future__ import annotations

import importlib.util
from typing import Literal

import torch
from torch import Tensor

from tokenstore.codecs import ContextModel
from tokenstore.errors import CodecError
from tokenstore.loading.resident.context_torch import TorchDecoder
from tokenstore.loading.resident.pool import check_pool
from tokenstore.loading.resident.tables import device_tables

__all__ = ["ContextDecoder"]


class ContextDecoder:
    """A decoder of samples of one model and grid, many at once, bit for bit as on the processor.

    `kernel` is "torch", whose operations any device has, or "triton", one kernel that decodes a sample a
    warp. "auto" is "triton" on CUDA devices where Triton is installed, and "torch" elsewhere. Raises
    CodecError where the model does not fit the grid.
    """

    def __init__(
        self,
        model: ContextModel,
        grid: tuple[int, ...],
        device: torch.device | str,
        *,
        kernel: Literal["auto", "torch", "triton"] = "auto",
    ) -> None:
        self._tables = device_tables(model, grid, torch.device(device))
        self.device = self._tables.rows.device
        if kernel == "auto":
            has_triton = self.device.type == "cuda" and importlib.util.find_spec("triton") is not None
            kernel = "triton" if has_triton else "torch"
        self.kernel: Literal["torch", "triton"] = kernel
        if kernel == "triton":
            from tokenstore.loading.resident.context_triton import TritonDecoder

            self._decode: TorchDecoder | TritonDecoder = TritonDecoder(self._tables)
        else:
            self._decode = TorchDecoder(self._tables)

    def decode(self, pool: Tensor, offsets: Tensor, lengths: Tensor) -> Tensor:
        """Decode the streams of `lengths` (m,) bytes at `offsets` (m,) of `pool` (nbytes,) uint8.

        Returns codes (m, *grid) int64. Raises CodecError, which names the first such sample, where a stream
        is not inside the pool or no encoder wrote it.
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
                f"expected a stream inside {pool.numel()} bytes, "
                f"found {int(lengths[sample])} from {int(offsets[sample])}",
                sample=sample,
            )
        if not len(offsets):
            return torch.empty((0, *self._tables.grid), dtype=torch.int64, device=self.device)
        codes, wrong = self._decode(pool, offsets, lengths)
        if bool(wrong.any()):
            sample = int(wrong.int().argmax())
            raise CodecError("expected a stream of the context codec, found other bytes", sample=sample)
        return codes.reshape(-1, *self._tables.grid)
