"""Codes to cropped embeddings on a processor, in one pass over its caches.

The separable interpolation of `crops.resized_crop`, reading codebook vectors where they lie: the embeddings
that are cropped are never written. Each line of a box is resized with channels innermost, as the codebook
has them, and turned channel-first while it lies in the cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenstore.augment.crops import Interpolation, taps
from tokenstore.augment.embedding import check_codes
from tokenstore.machine import compiled

__all__ = ["check_out", "embed_resized_crop"]


def embed_resized_crop(
    codes: Tensor,
    codebook: Tensor,
    boxes: Tensor,
    size: tuple[int, int],
    interpolation: Interpolation,
    out: Tensor,
) -> None:
    """Writes boxes (B, 4) of the embeddings of codes (B, H, W), resized, to `out` (B, C, *size).

    All lie in the CPU's memory. Codes are of any integer dtype; the codebook (K, C) and `out`, which is
    contiguous, are float32. One thread, without the GIL. Raises CodecError for a code out of range, inside
    its box or not, and ValueError where shapes do not fit or a box does not lie inside the grid.
    """
    height, width = codes.shape[1:]
    check_out(out, (len(codes), codebook.shape[1], *size))
    _check_boxes(boxes, len(codes), (height, width))
    lengths = torch.arange(1, max(height, width) + 1)
    tables = [table.numpy() for side in size for table in taps(lengths, side, interpolation)]
    refused = _embed_resized_crop(
        np.ascontiguousarray(codes.numpy(), np.int64),
        np.ascontiguousarray(codebook.numpy()),
        np.ascontiguousarray(boxes.numpy()),
        *tables,
        out.numpy(),
    )
    if refused >= 0:
        check_codes(codes, len(codebook))


@compiled
def _embed_resized_crop(
    codes: Any,
    codebook: Any,
    boxes: Any,
    row_taps: Any,
    row_weights: Any,
    column_taps: Any,
    column_weights: Any,
    out: Any,
) -> int:
    """The first sample with a code out of range, or -1; tables are `taps` of the lengths from 1."""
    channels, rows, columns = out.shape[1:]
    # The lines of a box resized: one with channels innermost, and all of them channel-first.
    line = np.empty((columns, channels), np.float32)
    lines = np.empty((channels, codes.shape[1], columns), np.float32)
    for sample in range(codes.shape[0]):
        largest = np.uint64(0)
        for code in codes[sample].flat:
            largest = max(largest, np.uint64(code))
        if largest >= np.uint64(codebook.shape[0]):
            return sample
        top, left, height, width = boxes[sample]
        at, weight = column_taps[width - 1], column_weights[width - 1]
        for row in range(height):
            found = codes[sample, top + row]
            for x in range(columns):
                a, b = codebook[found[left + at[x, 0]]], codebook[found[left + at[x, 1]]]
                c, d = codebook[found[left + at[x, 2]]], codebook[found[left + at[x, 3]]]
                p, q, r, s = weight[x, 0], weight[x, 1], weight[x, 2], weight[x, 3]
                for channel in range(channels):
                    line[x, channel] = p * a[channel] + q * b[channel] + r * c[channel] + s * d[channel]
            for channel in range(channels):
                for x in range(columns):
                    lines[channel, row, x] = line[x, channel]
        at, weight = row_taps[height - 1], row_weights[height - 1]
        for channel in range(channels):
            for y in range(rows):
                a, b = lines[channel, at[y, 0]], lines[channel, at[y, 1]]
                c, d = lines[channel, at[y, 2]], lines[channel, at[y, 3]]
                p, q, r, s = weight[y, 0], weight[y, 1], weight[y, 2], weight[y, 3]
                resized = out[sample, channel, y]
                for x in range(columns):
                    resized[x] = p * a[x] + q * b[x] + r * c[x] + s * d[x]
    return -1


def check_out(out: Tensor, shape: tuple[int, ...]) -> None:
    """Raises ValueError unless a result of this shape can be written to `out`."""
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
