"""Samples drawn from a store of any size: those that numpy's permutation begins with, in flat memory."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tokenstore.machine import importing_kernels

LISTED = 2**22
"""The largest number of samples that are permuted as a list."""
_MOST = 2**32
"""The number of samples from which on numpy draws with 64 bits."""
_RAW_AT_ONCE = 2**17


def drawn(size: int, count: int, key: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Draw the first `count` of `np.random.default_rng(key).permutation(size)`, and sort them (count,)."""
    rng = np.random.default_rng(key)
    if size <= LISTED or 2 * count > size:
        numbers = np.arange(size, dtype=np.int32 if size < 2**31 else np.int64)
        rng.shuffle(numbers)
        return np.sort(numbers[:count].astype(np.int64))
    if size > _MOST:
        return np.sort(rng.choice(size, count, replace=False, shuffle=False))
    return _streamed(size, count, key)


def _streamed(size: int, count: int, key: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Draw the same from the random numbers in the other direction, a block of them in memory at a time.

    numpy goes down from the last place i, and exchanges its number with that of a place j <= i. So in the
    end the first places have the numbers which one finds by going up: where j is among the places so far, i
    takes its part.
    """
    with importing_kernels:
        from tokenstore.writing.drawing_kernel import places

    drawn = np.empty(2 * _RAW_AT_ONCE, np.int64)

    def block(number: int, place: int) -> npt.NDArray[np.int64]:
        """Return the places j of the places i from `place` down that a block of random numbers gives."""
        bits = np.random.PCG64(np.random.SeedSequence(key)).advance(number * _RAW_AT_ONCE)
        raw = bits.random_raw(_RAW_AT_ONCE).astype("<u8").view("<u4").astype(np.uint32, copy=False)
        return drawn[: places(raw, place, drawn)]

    starts = [size - 1]
    while starts[-1] >= max(count, 1):
        starts.append(starts[-1] - len(block(len(starts) - 1, starts[-1])))
    chosen = set(range(count))
    for number in range(len(starts) - 2, -1, -1):
        j = block(number, starts[number])[::-1]
        i = np.arange(starts[number] - len(j) + 1, starts[number] + 1)
        listed = np.fromiter(chosen, np.int64, count)
        may_be = (i >= count) & (np.isin(j, listed) | (j >= i[0]))
        for place, other in zip(i[may_be].tolist(), j[may_be].tolist(), strict=True):
            if other in chosen:
                chosen.remove(other)
                chosen.add(place)
    return np.sort(np.fromiter(chosen, np.int64, count))
