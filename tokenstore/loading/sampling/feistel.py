"""Keyed bijections of [0, samples) without an array: a Feistel network over Z_a x Z_b, compiled.

A number x < a * b is the pair (x // b, x % b), its halves. A round adds to one half, modulo its size, a hash
of the other half and the round's key. A result of `samples` or more goes through the network again ("cycle
walking", Black and Rogaway, "Ciphers with arbitrary finite domains", 2002), which is rare, since
a = ceil(sqrt(samples)) and b = ceil(samples / a), or one more where both are odd. The hash is output number
`half` of SplitMix64, started at the round's key (Steele, Lea and Flood, "Fast splittable pseudorandom number
generators", 2014). All is unsigned 64-bit arithmetic: an order is the same on every platform.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tokenstore.machine import compiled
from tokenstore.randomness import GAMMA, keyed, mixed

__all__ = ["inverted", "permuted", "round_keys", "window_rows"]

# Few samples need many rounds: after 8, some permutations of 6 samples are twice as frequent as they should
# be, after 24 all are right within 0.4 %. The places of two of 1,024 samples are independent within 0.003 %
# after 8 rounds.
ROUNDS = 8
SMALL_ROUNDS = 24
SMALL = 1024

_ONE, _32 = np.uint64(1), np.uint64(32)


@compiled
def round_keys(state: Any, samples: Any) -> Any:
    """The keys (rounds,) uint64 of the permutation of `samples` (uint64) that a folded key selects."""
    keys = np.empty(SMALL_ROUNDS if samples < SMALL else ROUNDS, np.uint64)
    start = keyed(state, samples)
    for number in range(len(keys)):
        start += GAMMA
        keys[number] = mixed(start)
    return keys


@compiled
def _sides(samples: Any) -> Any:
    """The a and b of at least one sample, at most 2**31; a is the integer root of samples - 1, plus 1."""
    rest = samples - _ONE
    root = np.uint64(np.sqrt(np.float64(rest)))
    while root * root > rest:
        root -= _ONE
    while (root + _ONE) * (root + _ONE) <= rest:
        root += _ONE
    a = root + _ONE
    b = rest // a + _ONE
    # Turning a cycle of odd length is an even permutation: with a and b odd, half of all would never occur.
    return a, b + (a & b & _ONE)


@compiled
def _drawn(key: Any, half: Any, size: Any) -> Any:
    """A number in [0, size), size at most 2**31: the hash's upper 32 bits as a fraction of it."""
    return ((mixed(key + half * GAMMA) >> _32) * size) >> _32


@compiled
def _forward(x: Any, samples: Any, a: Any, b: Any, keys: Any) -> Any:
    while True:
        left, right = x // b, x % b
        for number in range(0, len(keys), 2):
            left += _drawn(keys[number], right, a)
            left -= a if left >= a else np.uint64(0)
            right += _drawn(keys[number + 1], left, b)
            right -= b if right >= b else np.uint64(0)
        x = left * b + right
        if x < samples:
            return x


@compiled
def _backward(x: Any, samples: Any, a: Any, b: Any, keys: Any) -> Any:
    while True:
        left, right = x // b, x % b
        for number in range(len(keys) - 2, -1, -2):
            right += b - _drawn(keys[number + 1], left, b)
            right -= b if right >= b else np.uint64(0)
            left += a - _drawn(keys[number], right, a)
            left -= a if left >= a else np.uint64(0)
        x = left * b + right
        if x < samples:
            return x


@compiled
def permuted(numbers: Any, samples: Any, keys: Any) -> None:
    """Replaces numbers (n,) int64 in [0, samples) by their images; samples uint64, keys of `round_keys`."""
    if len(numbers):
        a, b = _sides(samples)
        for number in range(len(numbers)):
            numbers[number] = _forward(np.uint64(numbers[number]), samples, a, b, keys)


@compiled
def inverted(numbers: Any, samples: Any, keys: Any) -> None:
    """Undoes `permuted`."""
    if len(numbers):
        a, b = _sides(samples)
        for number in range(len(numbers)):
            numbers[number] = _backward(np.uint64(numbers[number]), samples, a, b, keys)


@compiled
def _run_of(edges: Any, position: Any, low: Any, high: Any) -> Any:
    """The last run in [low, high) that starts at or before the position."""
    while high - low > 1:
        middle = (low + high) // 2
        if edges[middle] <= position:
            low = middle
        else:
            high = middle
    return low


@compiled
def window_rows(positions: Any, edges: Any, first_rows: Any, window: Any, state: Any) -> None:
    """Replaces positions (n,) int64 by rows: each window of runs is permuted by its own key.

    Run k holds positions [edges[k], edges[k + 1]) and rows from first_rows[k] on: (k + 1,) and (k,) int64.
    """
    runs = len(first_rows)
    first = last = start = stop = 0
    size = a = b = np.uint64(1)
    keys = np.empty(0, np.uint64)
    for number in range(len(positions)):
        position = positions[number]
        if position < start or position >= stop:
            place = _run_of(edges, position, 0, runs) // window
            first, last = place * window, min((place + 1) * window, runs)
            start, stop = edges[first], edges[last]
            size = np.uint64(stop - start)
            a, b = _sides(size)
            keys = round_keys(keyed(state, np.uint64(place)), size)
        moved = start + np.int64(_forward(np.uint64(position - start), size, a, b, keys))
        run = _run_of(edges, moved, first, last)
        positions[number] = first_rows[run] + moved - edges[run]
