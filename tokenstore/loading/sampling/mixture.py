"""Several sources in fixed proportion: whose turn a position is, and which of the source's rows."""

from __future__ import annotations

import functools
import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from types import ModuleType
from typing import Any, Final, Literal, TypeAlias, get_args

import numpy as np
from typing_extensions import override

from tokenstore.errors import did_you_mean
from tokenstore.loading.sampling.order import (
    MOST_SAMPLES,
    Indices,
    Order,
    positions_within,
    whole_number,
)
from tokenstore.loading.sampling.shares import portion, shares_of_rest
from tokenstore.machine import importing_kernels

__all__ = ["Mixture", "Stopping"]

Stopping: TypeAlias = Literal["all_exhausted", "first_exhausted"]
"""The rule that ends a mixture's epoch."""

_CACHED_PASSES: Final = 4
"""The number of orders in memory of each source: batches that are read ahead seldom span more passes."""


class Mixture(Order):
    """Draws from several sources in proportion; row numbers are into their concatenation.

    `orders[i](q)` is the order of source i in its pass q through its sizes[i] rows. Passes are counted from
    0 over all epochs: a source that is not exhausted in an epoch goes on in the next where it stopped, and an
    exhausted one begins a new pass. Of the first p positions of an epoch, source i has
    p * weights[i] / sum(weights), to within (1 + H) / 2 positions, H = 1 + 1/2 + ... + 1 / (n - 2) for n
    sources: 1/2 for two, 1 for three, 1.9 for ten. By default the weights are the sizes, and each row comes
    once an epoch.
    With stopping="first_exhausted", the epoch ends before a source would have to begin again. With
    "all_exhausted", it ends as soon as every source has given as many rows as it has. A mixture pickles where
    `orders` do.
    Raises ValueError for other values of stopping, sources without rows, numbers of orders, sizes and weights
    that differ, weights that are not positive finite numbers, or so uneven that an epoch has no end.
    """

    def __init__(
        self,
        orders: Sequence[Callable[[int], Order]],
        sizes: Sequence[int],
        weights: Sequence[float] | None = None,
        stopping: Stopping = "all_exhausted",
        epoch: int = 0,
    ) -> None:
        self._arguments = (
            tuple(orders),
            tuple(sizes),
            None if weights is None else tuple(weights),
            stopping,
            epoch,
        )
        self._sizes = [whole_number(f"rows of source {i}", n, 1, MOST_SAMPLES) for i, n in enumerate(sizes)]
        epoch = whole_number("epoch", epoch, 0)
        if stopping not in get_args(Stopping):
            near = did_you_mean(stopping, get_args(Stopping))
            raise ValueError(
                f"stopping: expected one of {', '.join(get_args(Stopping))}, found {stopping!r}{near}"
            )
        fractions = _checked_weights(self._sizes if weights is None else weights)
        if not len(orders) == len(self._sizes) == len(fractions) > 0:
            raise ValueError(
                "expected an order, a number of rows and a weight for each of at least one source, "
                f"found {len(orders)}, {len(self._sizes)} and {len(fractions)}"
            )
        if sum(self._sizes) > MOST_SAMPLES:
            raise ValueError(f"rows: expected at most {MOST_SAMPLES} in all, found {sum(self._sizes)}")
        self._orders = [functools.lru_cache(maxsize=_CACHED_PASSES)(make) for make in orders]
        self._first_rows = [sum(self._sizes[:i]) for i in range(len(self._sizes))]
        self._sources = np.array(sorted(range(len(fractions)), key=lambda i: -fractions[i]), np.int64)
        self._shares = shares_of_rest([fractions[i] for i in self._sources])
        self._length = self._end(stopping)
        self._begun = [
            divmod(epoch * n, size) for n, size in zip(self._counts(self._length), self._sizes, strict=True)
        ]

    def __len__(self) -> int:
        return self._length

    def __repr__(self) -> str:
        _, sizes, weights, stopping, epoch = self._arguments
        return f"Mixture(sizes={sizes}, weights={weights}, stopping={stopping!r}, epoch={epoch})"

    def __reduce__(self) -> tuple[type[Mixture], tuple[Any, ...]]:
        return Mixture, self._arguments

    @override
    def __call__(self, positions: Indices) -> Indices:
        row_numbers = positions_within(positions, self._length)
        for places, source, order, own in self._passes(row_numbers.copy()):
            row_numbers[places] = self._first_rows[source] + order(own)
        return row_numbers

    @override
    def lane_keys(self, positions: Indices) -> Indices:
        keys = positions_within(positions, self._length)
        for places, _, order, own in self._passes(keys.copy()):
            keys[places] = order.lane_keys(own)
        return keys

    @override
    def fetched_rows(self, positions: Indices) -> Indices:
        fetched = [np.empty(0, np.int64)]
        for _, source, order, own in self._passes(positions_within(positions, self._length)):
            fetched.append(self._first_rows[source] + order.fetched_rows(own))
        return np.concatenate(fetched)

    @override
    def samples_in_memory(self, size: int) -> int:
        """Return for how many samples of each source a reader needs memory."""
        return max(
            order(passes).samples_in_memory(size)
            for order, (passes, _) in zip(self._orders, self._begun, strict=True)
        )

    def _passes(self, positions: Indices) -> Iterator[tuple[Indices, int, Order, Indices]]:
        """Yield the passes of sources that positions (n,) are in.

        An item is the pass's places in `positions`, the source, its order in the pass, and the positions (m,)
        of that order. `positions` are overwritten.
        """
        draws, turns = positions, np.empty_like(positions)
        _kernels().take_turns(draws, self._shares, turns)
        sources = self._sources[turns]
        for source in np.unique(sources).tolist():
            places = np.flatnonzero(sources == source)
            passes_before, row_before = self._begun[source]
            passes, own = np.divmod(row_before + draws[places], self._sizes[source])
            by_pass = np.argsort(passes, kind="stable")
            for group in np.split(by_pass, np.flatnonzero(np.diff(passes[by_pass])) + 1):
                order = self._orders[source](passes_before + int(passes[group[0]]))
                yield places[group], source, order, own[group]

    def _counts(self, positions: int) -> list[int]:
        """Return how many of the epoch's first `positions` belong to each source."""
        counts = [0] * len(self._sizes)
        for source, share in zip(self._sources.tolist(), self._shares.tolist(), strict=False):
            counts[source] = portion(positions, share)
            positions -= counts[source]
        counts[int(self._sources[-1])] = positions
        return counts

    def _end(self, stopping: Stopping) -> int:
        """Return the length of an epoch."""

        def over(positions: int) -> bool:
            pairs = zip(self._counts(positions), self._sizes, strict=True)
            if stopping == "first_exhausted":
                return any(count > size for count, size in pairs)
            return all(count >= size for count, size in pairs)

        if not over(MOST_SAMPLES):
            raise ValueError(
                f"weights: expected each source to give its rows within {MOST_SAMPLES} draws, "
                f"found weights {self._arguments[2]} for {self._sizes} rows; make them less uneven"
            )
        end = bisect_left(range(MOST_SAMPLES), True, key=over)
        return end - 1 if stopping == "first_exhausted" else end


def _checked_weights(weights: Sequence[float]) -> list[Fraction]:
    for source, weight in enumerate(weights):
        if not (math.isfinite(weight) and weight > 0):
            raise ValueError(
                f"weights: expected positive finite numbers, found {weight!r} for source {source}"
            )
    return [Fraction(weight) for weight in weights]


@functools.cache
def _kernels() -> ModuleType:
    with importing_kernels:
        from tokenstore.loading.sampling import turns
    return turns
