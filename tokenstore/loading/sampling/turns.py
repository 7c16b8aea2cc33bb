"""The source whose turn each position of a mixture is, compiled.

The module imports numba. `Mixture` imports the module on first use.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tokenstore.loading.sampling.shares import SHARE_BITS
from tokenstore.machine import compiled

__all__ = ["take_turns"]

_ONE, _32, _LOW = np.uint64(1), np.uint64(32), np.uint64(2**32 - 1)
_HALF, _UP, _DOWN = np.uint64(1 << (SHARE_BITS - 1)), np.uint64(64 - SHARE_BITS), np.uint64(SHARE_BITS)


@compiled
def _portion(positions: Any, share: Any) -> Any:
    """Return `shares.portion` in unsigned 64-bit arithmetic, by a product of 128 bits."""
    low = (positions & _LOW) * (share & _LOW)
    middle = (positions >> _32) * (share & _LOW) + (low >> _32)
    crossed = (positions & _LOW) * (share >> _32) + (middle & _LOW)
    high = (positions >> _32) * (share >> _32) + (middle >> _32) + (crossed >> _32)
    low = (crossed << _32) | (low & _LOW)
    rounded = low + _HALF
    if rounded < low:
        high += _ONE
    return (high << _UP) | (rounded >> _DOWN)


@compiled
def take_turns(positions: Any, shares: Any, turns: Any) -> None:
    """Write to `turns` whose turn each position (n,) is, and replace the position by the source's draw.

    Sources are numbered in the order of `shares` (sources - 1,) uint64; a source's draws count from 0.
    """
    for number in range(len(positions)):
        rest = np.uint64(positions[number])
        turn = 0
        while turn < len(shares):
            before = _portion(rest, shares[turn])
            if _portion(rest + _ONE, shares[turn]) > before:
                rest = before
                break
            rest -= before
            turn += 1
        positions[number] = rest
        turns[number] = turn
