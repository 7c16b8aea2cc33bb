"""The indexes of an array's shards, as numbers: where in its shard each chunk ends.

A chunk begins where the one before it ends, as every index is checked to say. So 4 bytes a chunk are enough,
or 8 where a shard has 4 GiB or more.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from tokenstore.format import sharding
from tokenstore.reading.shards import ArrayFiles, Indices, drop_oldest

__all__ = ["AllIndexes", "RecentIndexes", "ShardIndexes", "Stops", "span"]

Stops: TypeAlias = npt.NDArray[Any]
"""The end of each chunk of a shard in its file, checksum included: (chunks,) uint32 or uint64."""

_RECENT = 64
"""The shards that are read in turn at a time, at most: a few for each thread."""


def span(stops: Stops, first: int, chunks: int = 1) -> tuple[int, int]:
    """Return the first byte of neighbouring chunks of a shard, and the byte after their last checksum."""
    return int(stops[first - 1]) if first else 0, int(stops[first + chunks - 1])


class ShardIndexes(Protocol):
    """The indexes of some shards of an array. Safe to share between threads and after a fork."""

    def get(self, shard: int) -> Stops | None:
        """Return the ends of a shard's chunks, or None for a shard whose index is not here."""

    def put(self, shard: int, index: sharding.Index) -> Stops:
        """Keep a checked index (chunks, 2), and return the ends of its chunks."""


class AllIndexes(ShardIndexes):
    """The indexes of all shards that were put here, in one array, which takes memory as it fills."""

    def __init__(self, files: ArrayFiles) -> None:
        self._per_shard = files.layout.chunks_per_shard
        largest = int(files.nbytes.max(initial=0))
        self._stops = np.zeros(files.chunks, np.uint32 if largest < 2**32 else np.uint64)
        self._has = np.zeros(files.layout.shards, np.bool_)

    @override
    def get(self, shard: int) -> Stops | None:
        return self._of(shard) if self._has[shard] else None

    @override
    def put(self, shard: int, index: sharding.Index) -> Stops:
        stops = self._of(shard)
        stops[:] = index.sum(axis=1)
        self._has[shard] = True  # subtle: after the numbers, which other threads read from now on
        return stops

    def starts(self, chunks: Indices) -> Indices:
        """Return where chunks (m,) begin in their shards, whose indexes are here."""
        starts = self._stops[chunks - 1].astype(np.int64)
        starts[chunks % self._per_shard == 0] = 0
        return starts

    def missing(self, shards: set[int]) -> list[int]:
        """Return those of some shards whose indexes are not here, ascending."""
        return [shard for shard in sorted(shards) if not self._has[shard]]

    def _of(self, shard: int) -> Stops:
        return self._stops[shard * self._per_shard : (shard + 1) * self._per_shard]


class RecentIndexes(ShardIndexes):
    """The indexes of the last shards, for readers of all shards in turn: memory does not grow with them."""

    def __init__(self) -> None:
        self._stops: OrderedDict[int, Stops] = OrderedDict()

    @override
    def get(self, shard: int) -> Stops | None:
        return self._stops.get(shard)

    @override
    def put(self, shard: int, index: sharding.Index) -> Stops:
        stops: Stops = index.sum(axis=1)
        self._stops[shard] = stops
        while len(self._stops) > _RECENT:
            drop_oldest(self._stops)
        return stops
