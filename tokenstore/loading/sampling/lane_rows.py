"""The rows at the positions of a lane shuffle, compiled; `LaneShuffle` in lanes.py says what they are.

The blocks of an epoch stand in a sequence of slots, and a place counts the rows of that sequence. The slots
are described by `shape`, the numbers of `Shape` as an array (8,) int64, and by arrays:

- Blocks of unequal sizes: `edges` (slots + 1,) int64 are the first place of every slot and the number of
  rows, `table` (slots,) int64 the first row of every slot's block.
- Equal runs: `edges` is (0,), since the sizes of slots follow the pattern of storage. Full runs take each
  other's slots, shorter ones take each other's, and the store's last run stays last where it is shorter than
  all others of its kind. `table` has the permuted numbers of full runs, or is (0,) where these would take too
  much memory, and `full_keys` permute full runs. `tail_keys` permute shorter ones.

Of the lanes, `lanes` (lanes, 3) int64 has the first place of each, the number of slots of its windows (or of
their places, if `Shape.by_places`), and 1 where its places are taken from the last to the first, else 0.

The module imports numba. `LaneShuffle` imports the module on first use.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tokenstore.loading.sampling.feistel import ROUNDS, SMALL_ROUNDS, forward, keyed, sides, written_keys
from tokenstore.machine import compiled

__all__ = ["Shape", "lane_rows", "slot_rows", "slots_of", "window_places"]

_FEW = 32
"""The rows of a window below which few rounds of its permutation are too few."""


class Shape(NamedTuple):
    """The numbers that describe slots; for blocks of unequal sizes all are 0 but `rows` and `by_places`."""

    rows: int
    shard: int = 0
    """The rows of a shard."""
    run: int = 0
    """The rows of a full run."""
    full: int = 0
    """The full runs of a shard."""
    per_shard: int = 0
    """The slots of a shard: one more than `full` where the shard has a shorter run."""
    full_runs: int = 0
    """The full runs of all shards."""
    tails: int = 0
    """The shorter runs of all whole shards."""
    by_places: int = 0
    """1 if windows have a number of places each, which may be parts of blocks; 0 if one of slots."""


_ROWS, _SHARD, _RUN, _FULL, _PER_SHARD, _FULL_RUNS, _TAILS, _BY_PLACES = range(8)


@compiled
def _slot_of(place: Any, shape: Any, edges: Any, low: Any, high: Any) -> Any:
    """Return the slot of a place; for blocks of unequal sizes, one that is known to be in [low, high)."""
    if shape[_SHARD]:
        shard = place // shape[_SHARD]
        run = (place - shard * shape[_SHARD]) // shape[_RUN]
        return shard * shape[_PER_SHARD] + min(run, shape[_FULL])
    while high - low > 1:
        middle = (low + high) // 2
        if edges[middle] <= place:
            low = middle
        else:
            high = middle
    return low


@compiled
def _start_of(slot: Any, shape: Any, edges: Any) -> Any:
    """Return a slot's first place, or the number of rows behind the last slot."""
    if shape[_SHARD]:
        shard = slot // shape[_PER_SHARD]
        start = shard * shape[_SHARD] + (slot - shard * shape[_PER_SHARD]) * shape[_RUN]
        return min(start, shape[_ROWS])
    return edges[min(slot, len(edges) - 1)]


@compiled
def _permuted(number: Any, count: Any, keys: Any) -> Any:
    size = np.uint64(count)
    a, b = sides(size)
    return np.int64(forward(np.uint64(number), size, a, b, keys))


@compiled
def _first_row(slot: Any, shape: Any, table: Any, full_keys: Any, tail_keys: Any) -> Any:
    """Return the first row of the block in a slot."""
    if not shape[_SHARD]:
        return table[slot]
    shard = slot // shape[_PER_SHARD]
    run = slot - shard * shape[_PER_SHARD]
    if run < shape[_FULL]:
        number = shard * shape[_FULL] + run
        if number < shape[_FULL_RUNS]:
            if len(table):
                number = table[number]
            else:
                number = _permuted(number, shape[_FULL_RUNS], full_keys)
            shard = number // shape[_FULL]
            run = number - shard * shape[_FULL]
    elif shard < shape[_TAILS]:
        shard = _permuted(shard, shape[_TAILS], tail_keys)
    return shard * shape[_SHARD] + run * shape[_RUN]


@compiled
def _window(position: Any, lanes: Any, shape: Any, edges: Any) -> Any:
    """Return a position's place, lane and window, and the places [start, stop) of the lane's part of it."""
    turn = position // len(lanes)
    lane = position - turn * len(lanes)
    low, window = lanes[lane, 0], lanes[lane, 1]
    high = low + (shape[_ROWS] - lane + len(lanes) - 1) // len(lanes)
    place = high - 1 - turn if lanes[lane, 2] else low + turn
    if shape[_BY_PLACES]:
        number = (place - low) // window
        start = low + number * window
        return place, lane, number, start, min(high, start + window)
    number = _slot_of(place, shape, edges, 0, len(edges) - 1) // window
    start = max(low, _start_of(number * window, shape, edges))
    stop = min(high, _start_of((number + 1) * window, shape, edges))
    return place, lane, number, start, stop


@compiled
def lane_rows(
    positions: Any,
    lanes: Any,
    state: Any,
    shape: Any,
    edges: Any,
    table: Any,
    full_keys: Any,
    tail_keys: Any,
) -> None:
    """Replace positions (n,) int64 by row numbers.

    `state` is the hashed key of the windows' permutations.
    """
    slots = len(edges) - 1
    size = a = b = np.uint64(1)
    own_keys, many_keys = np.empty(ROUNDS, np.uint64), np.empty(SMALL_ROUNDS, np.uint64)
    for at in range(len(positions)):
        place, lane, number, start, stop = _window(positions[at], lanes, shape, edges)
        if np.uint64(stop - start) != size:
            size = np.uint64(stop - start)
            a, b = sides(size)
        key = keyed(keyed(state, np.uint64(lane)), np.uint64(number))
        if size >= _FEW:
            written_keys(key, own_keys)
            image = start + np.int64(forward(np.uint64(place - start), size, a, b, own_keys))
        else:
            written_keys(key, many_keys)
            image = start + np.int64(forward(np.uint64(place - start), size, a, b, many_keys))
        low, high = 0, slots
        if not shape[_BY_PLACES]:
            low = number * lanes[lane, 1]
            high = min(low + lanes[lane, 1], slots)
        slot = _slot_of(image, shape, edges, low, high)
        offset = image - _start_of(slot, shape, edges)
        positions[at] = _first_row(slot, shape, table, full_keys, tail_keys) + offset


@compiled
def window_places(positions: Any, lanes: Any, shape: Any, edges: Any) -> Any:
    """Return the places [start, stop) (n, 2) int64 of the part of a window that a position's lane has."""
    spans = np.empty((len(positions), 2), np.int64)
    for at in range(len(positions)):
        _, _, _, spans[at, 0], spans[at, 1] = _window(positions[at], lanes, shape, edges)
    return spans


@compiled
def slots_of(places: Any, shape: Any, edges: Any) -> Any:
    """Return the slots (n,) int64 of places (n,)."""
    slots = np.empty(len(places), np.int64)
    for at in range(len(places)):
        slots[at] = _slot_of(places[at], shape, edges, 0, len(edges) - 1)
    return slots


@compiled
def slot_rows(numbers: Any, shape: Any, edges: Any, table: Any, full_keys: Any, tail_keys: Any) -> Any:
    """Return the first row and the number of rows (n, 2) int64 of the blocks in slots (n,)."""
    blocks = np.empty((len(numbers), 2), np.int64)
    for at in range(len(numbers)):
        slot = numbers[at]
        blocks[at, 0] = _first_row(slot, shape, table, full_keys, tail_keys)
        blocks[at, 1] = _start_of(slot + 1, shape, edges) - _start_of(slot, shape, edges)
    return blocks
