"""The compiled loops of `ragged`: a walk over the samples of a payload, and a gathering of their bytes."""

from __future__ import annotations

from typing import Any

import numpy as np

from tokenstore.codecs.addresses import byte_at
from tokenstore.machine import compiled

__all__ = ["gather", "item_spans", "walk"]

_HEAD = 4


@compiled
def item_spans(payload: Any, starts: Any, lengths: Any) -> int:
    """Set starts (n,) and lengths (n,) int64 to the spans of n samples in a payload (nbytes,) uint8.

    Returns -1, or the first sample whose bytes are not all there, or n where bytes follow the last one.
    """
    at, nbytes = np.int64(_HEAD), np.int64(len(payload))
    for sample in range(len(starts)):
        if nbytes - at < _HEAD:
            return sample
        length = np.int64(0)
        for byte in range(_HEAD):
            length |= np.int64(payload[at + byte]) << np.int64(8 * byte)
        at += _HEAD
        if length > nbytes - at:
            return sample
        starts[sample] = at
        lengths[sample] = length
        at += length
    return -1 if at == nbytes else len(starts)


@compiled
def walk(addresses: Any, lengths: Any, rows: Any, starts: Any, sizes: Any) -> int:
    """Set starts (m,) and sizes (m,) int64 to address and bytes of the samples `rows` (m,) behind marks.

    The marks are at `addresses` (m,) int64, and `lengths` (m,) bytes follow each. Returns -1, or the first
    sample whose bytes are not all there.
    """
    for sample in range(len(rows)):
        at, stop = addresses[sample], addresses[sample] + lengths[sample]
        size = np.int64(0)
        for _ in range(rows[sample] + 1):
            at += size
            if stop - at < _HEAD:
                return sample
            size = np.int64(0)
            for byte in range(_HEAD):
                size |= np.int64(byte_at(at + byte)) << np.int64(8 * byte)  # type: ignore[call-arg]
            at += _HEAD
            if size > stop - at:
                return sample
        starts[sample] = at
        sizes[sample] = size
    return -1


@compiled
def gather(addresses: Any, lengths: Any, out: Any) -> None:
    """Copy the bytes of samples, of lengths (m,) int64 at addresses (m,) int64, to `out` back to back."""
    at = 0
    for sample in range(len(addresses)):
        address = addresses[sample]
        for byte in range(lengths[sample]):
            out[at + byte] = byte_at(address + byte)  # type: ignore[call-arg]
        at += lengths[sample]
