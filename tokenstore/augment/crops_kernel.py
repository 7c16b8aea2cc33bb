"""The compiled loop of `crops_cpu.py`, which imports the module, and numba with it, on first use."""

from __future__ import annotations

from typing import Any

import numpy as np

from tokenstore.machine import compiled

__all__ = ["embed_resized_crop"]


@compiled
def embed_resized_crop(
    codes: Any,
    codebook: Any,
    boxes: Any,
    row_taps: Any,
    row_weights: Any,
    column_taps: Any,
    column_weights: Any,
    out: Any,
) -> int:
    """Write the crops to `out`; return the first sample with a code out of range, or -1.

    The tables are `crops.taps` of the lengths from 1, for rows and for columns.
    """
    channels, rows, columns = out.shape[1:]
    # The resized lines of a box: one line with channels innermost, and all lines channel-first.
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
            line_codes = codes[sample, top + row]
            for x in range(columns):
                a, b = codebook[line_codes[left + at[x, 0]]], codebook[line_codes[left + at[x, 1]]]
                c, d = codebook[line_codes[left + at[x, 2]]], codebook[line_codes[left + at[x, 3]]]
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
