"""Checks of a shard before it is written: the codes fit their codebook, and the bytes decode to the codes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tokenstore.codecs import Views
from tokenstore.errors import CodecError
from tokenstore.format import ArrayLayout, code_planes


def check_lossless(layout: ArrayLayout, data: bytes, rows: npt.NDArray[Any], where: str) -> None:
    """Raise CodecError unless a shard's bytes decode to its rows (n, ...)."""
    # a shard is decoded before it is trusted: a code lost to a fault of this machine shows nowhere else
    if not np.array_equal(layout.decode_shard(data, where), rows):
        raise _lossy(where)


def check_lossless_chunk(layout: ArrayLayout, payload: bytes, rows: npt.NDArray[Any], where: str) -> None:
    """Raise CodecError unless a chunk's payload decodes to its rows (n, ...)."""
    decoded = np.empty_like(rows)
    layout.codec.decode(np.frombuffer(payload, np.uint8), decoded)
    if not np.array_equal(decoded, rows):
        raise _lossy(where)


def _lossy(where: str) -> CodecError:
    return CodecError(f"{where}: what was encoded does not decode to the same codes. Report this")


def check_codes(
    codes: npt.NDArray[Any],
    sizes: tuple[int, ...],
    grid: tuple[int, ...],
    where: str,
    first: int = 0,
    *,
    views: Views | None = None,
) -> None:
    """Raise CodecError unless codes (n, *grid), or (n, V, *grid) of `views`, are integers of their codebooks.

    `first` is the place of the first sample in what `where` names.
    """
    each, count = ("", 1) if views is None else (f"{views.count} views of ", views.count)
    if codes.shape[1:] != (grid if views is None else (count, *grid)) or codes.dtype.kind not in "ui":
        raise CodecError(
            f"{where}: expected integer codes of {each}grid {grid}, found {codes.dtype} {codes.shape[1:]}"
        )
    codes = codes.reshape(-1, *grid)
    for plane, (values, size) in enumerate(code_planes(codes, sizes)):
        if values.size and (int(values.max()) >= size or int(values.min()) < 0):
            flat = values.reshape(len(values), -1)
            bad = (flat >= size) | (flat < 0)
            sample = int(np.argmax(bad.any(axis=1)))
            raise CodecError(
                f"{where}, sample {first + sample // count}: expected codes from 0 to {size - 1}"
                f"{f' in codebook {plane}' if len(sizes) > 1 else ''}, found "
                f"{int(flat[sample][bad[sample]][0])}"
            )
