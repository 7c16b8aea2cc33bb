"""Codes to cropped embeddings on a processor, in one pass through its caches.

The interpolation is that of `crops.resized_crop`. It reads the codebook's vectors in place: the embeddings
before the crop are never written. Each line of a box is resized with channels innermost, as in the codebook,
and turned channel-first while it is in the cache.
"""

from __future__ import annotations

import functools
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from tokenstore.augment.codebooks import check_codes
from tokenstore.augment.crops import Interpolation, taps
from tokenstore.machine import importing_kernels

__all__ = ["check_out", "embed_resized_crop"]


def embed_resized_crop(
    codes: Tensor,
    codebook: Tensor,
    boxes: Tensor,
    size: tuple[int, int],
    interpolation: Interpolation,
    out: Tensor,
) -> None:
    """Write boxes (B, 4) of the embeddings of codes (B, H, W), resized, to `out` (B, C, *size).

    All tensors are in the CPU's memory. Codes are of any integer dtype; the codebook (K, C) and the
    contiguous `out` are float32. One thread computes, without the GIL. Raises CodecError for a code out of
    range, inside its box or not, and ValueError where shapes do not fit or a box is not inside the grid.
    """
    height, width = codes.shape[1:]
    check_out(out, (len(codes), codebook.shape[1], *size))
    _check_boxes(boxes, len(codes), (height, width))
    lengths = torch.arange(1, max(height, width) + 1)
    tables = [table.numpy() for side in size for table in taps(lengths, side, interpolation)]
    refused = _kernel().embed_resized_crop(
        np.ascontiguousarray(codes.numpy(), np.int64),
        np.ascontiguousarray(codebook.numpy()),
        np.ascontiguousarray(boxes.numpy()),
        *tables,
        out.numpy(),
    )
    if refused >= 0:
        check_codes(codes, len(codebook))


@functools.cache
def _kernel() -> ModuleType:
    with importing_kernels:
        from tokenstore.augment import crops_kernel
    return crops_kernel


def check_out(out: Tensor, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless `out` is contiguous float32 of this shape."""
    if out.shape != shape or out.dtype != torch.float32 or not out.is_contiguous():
        raise ValueError(
            f"out: expected a contiguous float32 buffer {shape}, found {tuple(out.shape)} of {out.dtype} "
            f"with strides {out.stride()}"
        )


def _check_boxes(boxes: Tensor, count: int, grid: tuple[int, int]) -> None:
    if boxes.shape != (count, 4) or boxes.dtype != torch.int64:
        raise ValueError(
            f"boxes: expected ({count}, 4) of int64, found {tuple(boxes.shape)} of {boxes.dtype}"
        )
    corners, sides = boxes[:, :2], boxes[:, 2:]
    inside = ((corners >= 0) & (sides >= 1) & (sides <= torch.tensor(grid) - corners)).all(1)
    if not inside.all():
        sample = int(inside.int().argmin())
        raise ValueError(
            f"boxes: expected (top, left, height, width) inside the grid {grid}, found "
            f"{tuple(boxes[sample].tolist())} for sample {sample}"
        )
