"""The random places of numpy's shuffle, compiled."""

from __future__ import annotations

from typing import Any

from tokenstore.machine import compiled


def _places(raw: Any, place: int, out: Any) -> int:
    """Fill `out` with a random place up to each from `place` down to 1; return how many there are.

    A place is taken from as many bits of `raw` (m,) uint32 as it may have; larger ones are left out.
    """
    mask = 1
    while mask < place:
        mask = 2 * mask + 1
    count = 0
    for bits in raw:
        if place < 1:
            break
        value = bits & mask
        if value <= place:
            out[count] = value
            count += 1
            place -= 1
            if place == mask >> 1:
                mask >>= 1
    return count


places = compiled(_places)
