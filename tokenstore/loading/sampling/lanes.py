"""A block shuffle for many ranks: each rank takes lanes of its own, and so fetches blocks of its own."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

import numpy as np
from typing_extensions import override

from tokenstore.loading.sampling.blocks import checked_starts
from tokenstore.loading.sampling.order import (
    MOST_SAMPLES,
    Indices,
    Order,
    positions_within,
    whole_number,
)
from tokenstore.loading.sampling.permutation import Permutation
from tokenstore.loading.sampling.spans import EqualSpans, Spans
from tokenstore.loading.sampling.steps import spread_lanes
from tokenstore.machine import importing_kernels
from tokenstore.randomness import hashed_key

__all__ = ["EqualRuns", "LaneShuffle"]

_LANES: Final = (1, 3, 6, 12, 24, 48, 96, 192, 384)
"""The numbers of lanes. 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128 and 192 ranks divide the last."""
_MOST_IN_MEMORY: Final = 2**20
"""The most permuted numbers of runs in memory: looking one up takes half the time of computing it."""
_TAIL_KEY: Final = 0x7461696C
"""The part of a key that sets the permutation of shorter runs apart from that of full runs."""
_LANE_KEY: Final = 0x6C616E65
"""The part of a key that sets the windows' permutations apart from those of runs."""


@dataclass(frozen=True)
class EqualRuns:
    """The runs of `samples` rows in shards of `shard` rows, each of which is cut into runs of `run` rows.

    The last run of a shard may be shorter, and so may the last shard. Of `chunk` neighbouring rows in a run,
    whoever fetches one has all. Raises ValueError for numbers below 1,
    or samples not in [0, 2**62].
    """

    samples: int
    shard: int
    run: int
    chunk: int = 1

    def __post_init__(self) -> None:
        whole_number("samples", self.samples, 0, MOST_SAMPLES)
        whole_number("shard", self.shard, 1)
        whole_number("run", self.run, 1)
        whole_number("chunk", self.chunk, 1)

    def __len__(self) -> int:
        """Return the number of runs."""
        shards, rest = divmod(self.samples, self.shard)
        return shards * -(-self.shard // self.run) + -(-rest // self.run)

    @property
    def starts(self) -> Indices:
        """The first row of every run, and the number of rows: (runs + 1,) int64."""
        shards = np.arange(0, self.samples, self.shard, dtype=np.int64)
        firsts = (shards[:, None] + np.arange(0, self.shard, self.run)).reshape(-1)
        return np.append(firsts[firsts < self.samples], self.samples)


class LaneShuffle(Order):
    """Every row once, in lanes: position p of an epoch is in lane p modulo `lanes`.

    Block k is the rows [starts[k], starts[k + 1]), which are fetched at once; `EqualRuns` in the place of
    starts take no memory. The blocks are permuted, and their rows are dealt to the lanes in equal, unbroken
    parts. A lane's blocks form windows, whose rows are fully permuted; the present windows of all lanes
    together have `window` blocks, and a block in each lane at least. Where all of a rank's positions are in
    lanes of its own, each block is fetched by one rank, apart from the few blocks that two lanes share.

    Where blocks are `joined` runs that can be fetched one by one, `window` counts runs. A window then has
    equally many rows in each lane, and a lane reads a block part by part.

    The number of lanes is 384, or in a smaller window that of its blocks or runs, or up to twice that. Raises
    ValueError for starts (blocks + 1,) that are not integers ascending from 0, a window below 1, a seed or
    epoch that `Permutation` refuses, or `EqualRuns` that are joined.
    """

    def __init__(
        self, starts: Indices | EqualRuns, window: int, seed: int, epoch: int, joined: int = 1
    ) -> None:
        if isinstance(starts, EqualRuns):
            blocks, self._rows = len(starts), starts.samples
            whole_number("joined", joined, 1, 1)
        else:
            starts = checked_starts(starts)
            blocks, self._rows = len(starts) - 1, int(starts[-1])
        self._by_places = whole_number("joined", joined, 1) > 1
        blocks *= joined
        self._window = min(whole_number("window", window, 1), max(1, blocks))
        self.lanes = next((lanes for lanes in _LANES if lanes >= self._window), _LANES[-1])
        self._seed, self._epoch, self._blocks = seed, epoch, blocks
        self._state = np.uint64(hashed_key(seed, epoch, _LANE_KEY))
        self._starts = starts
        self._lanes = np.empty((self.lanes, 3), np.int64)
        # Lanes of one rank stand together, as far as can be, so that few ranks share few blocks.
        together = spread_lanes(self.lanes)
        sizes = -(-(self._rows - together) // self.lanes)
        self._lanes[together, 0] = np.cumsum(sizes) - sizes
        parts = np.arange(self.lanes + 1) * max(self.lanes, self._window) // self.lanes
        self._lanes[together, 1] = np.diff(parts)
        if self._by_places:
            self._lanes[:, 1] = max(1, self.window_samples // self.lanes)
        # Two lanes that share a block read it at the same time: both at their starts, or both at their ends.
        self._lanes[together, 2] = np.arange(self.lanes) % 2

    def __len__(self) -> int:
        return self._rows

    def __repr__(self) -> str:
        return (
            f"LaneShuffle(samples={len(self)}, blocks={self._blocks}, window={self._window}, "
            f"lanes={self.lanes}, seed={self._seed}, epoch={self._epoch})"
        )

    @functools.cached_property
    def _slots(self) -> tuple[Any, ...]:
        """The slots of blocks, as lane_rows.py describes them: shape, edges, table, full_keys, tail_keys."""
        if isinstance(self._starts, EqualRuns):
            return _equal_slots(self._starts, self._seed, self._epoch)
        blocks = len(self._starts) - 1
        permuted = Permutation(blocks, self._seed, self._epoch)(np.arange(blocks))
        edges = np.append(0, np.cumsum(np.diff(self._starts)[permuted]))
        shape = np.array(_kernels().Shape(self._rows, by_places=self._by_places), np.int64)
        no_keys = np.empty(0, np.uint64)
        return shape, edges, self._starts[permuted], no_keys, no_keys

    @override
    def __call__(self, positions: Indices) -> Indices:
        row_numbers = positions_within(positions, len(self))
        _kernels().lane_rows(row_numbers, self._lanes, self._state, *self._slots)
        return row_numbers

    @override
    def lane_keys(self, positions: Indices) -> Indices:
        lane = positions_within(positions, len(self)) % self.lanes
        keys: Indices = (np.argsort(spread_lanes(self.lanes))[lane] << 32) // self.lanes
        return keys

    @property
    def window_samples(self) -> int:
        """The number of rows in the present windows of all lanes together, about."""
        return -(-self._rows * max(self.lanes, self._window) // max(1, self._blocks))

    @override
    def fetch_spans(self, size: int) -> Spans:
        return EqualSpans(self._span(size))

    @override
    def samples_in_memory(self, size: int) -> int:
        return 3 * self.window_samples // 2 + 2 * self._span(size)

    @override
    def fetched_rows(self, positions: Indices) -> Indices:
        checked = np.sort(positions_within(positions, len(self)))
        by_lane = np.full((2, self.lanes), -1)
        by_lane[0, checked % self.lanes] = checked
        by_lane[1, checked[::-1] % self.lanes] = checked[::-1]
        ends = by_lane[:, by_lane[0] >= 0]
        last, first = (_kernels().window_places(end, self._lanes, *self._slots[:2]) for end in ends)
        start, stop = np.minimum(first[:, 0], last[:, 0]), np.maximum(first[:, 1], last[:, 1])
        first_slot, last_slot = (_kernels().slots_of(of, *self._slots[:2]) for of in (start, stop - 1))
        slots = _joined(first_slot, last_slot + 1 - first_slot)
        if self._by_places:
            edges, table = self._slots[1:3]
            begin = np.maximum(edges[slots], np.repeat(start, last_slot + 1 - first_slot))
            end = np.minimum(edges[slots + 1], np.repeat(stop, last_slot + 1 - first_slot))
            return _joined(table[slots] + begin - edges[slots], end - begin)
        blocks = _kernels().slot_rows(np.unique(slots), *self._slots)
        chunk = self._starts.chunk if isinstance(self._starts, EqualRuns) else 1
        return _joined(blocks[:, 0], -(-blocks[:, 1] // chunk), chunk)

    def _span(self, size: int) -> int:
        """Return the number of positions that are fetched at once: of half a window, or `size`."""
        return max(size, self.window_samples // 2)


def _equal_slots(runs: EqualRuns, seed: int, epoch: int) -> tuple[Any, ...]:
    run = min(runs.run, runs.shard)
    shards, rest = divmod(runs.samples, runs.shard)
    full, tail = divmod(runs.shard, run)
    full_runs, tails = shards * full + rest // run, shards if tail else 0
    shape = _kernels().Shape(runs.samples, runs.shard, run, full, full + bool(tail), full_runs, tails)
    order, order_of_tails = Permutation(full_runs, seed, epoch), Permutation(tails, seed, epoch, _TAIL_KEY)
    table = order(np.arange(full_runs if full_runs <= _MOST_IN_MEMORY else 0))
    edges = np.empty(0, np.int64)
    return np.array(shape, np.int64), edges, table, order.round_keys, order_of_tails.round_keys


def _joined(firsts: Indices, sizes: Indices, step: int = 1) -> Indices:
    """Return the numbers of several ranges, one after another; sizes (n,) may differ."""
    starts = np.cumsum(sizes) - sizes
    numbers: Indices = step * np.arange(int(sizes.sum())) + np.repeat(firsts - step * starts, sizes)
    return numbers


@functools.cache
def _kernels() -> ModuleType:
    with importing_kernels:
        from tokenstore.loading.sampling import lane_rows
    return lane_rows
