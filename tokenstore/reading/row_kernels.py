"""The compiled loop of `row_numbers.py`, which imports the module, and numba with it, on first use."""

from __future__ import annotations

from typing import Any

import numpy as np

from tokenstore.machine import compiled

__all__ = ["HINT_SHIFT", "members_at"]

HINT_SHIFT = 9
"""The word of every 2**HINT_SHIFT-th member is known, so that few words are searched for one."""

_ONE = np.uint64(1)


@compiled
def members_at(positions: Any, words: Any, before: Any, hints: Any, rows: Any) -> None:
    """Set rows (n,) int64 to the members at positions (n,) int64 of a set of bits.

    `words` (w,) uint64 are 64 bits each, the least significant first; `before` (w + 1,) counts the members
    before each word, and all of them. `hints` are the words of the members 0, 2**HINT_SHIFT and so on, and
    the last word.
    """
    for number in range(len(positions)):
        position = positions[number]
        hint = position >> HINT_SHIFT
        low, high = hints[hint], hints[hint + 1] + 1
        while high - low > 1:
            middle = (low + high) // 2
            if before[middle] <= position:
                low = middle
            else:
                high = middle
        word = words[low]
        for _ in range(position - before[low]):
            word &= word - _ONE  # without its lowest member
        bit = 0
        while not word & _ONE:
            word >>= _ONE
            bit += 1
        rows[number] = 64 * low + bit
