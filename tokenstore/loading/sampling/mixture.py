"""Several sources in fixed proportion: whose turn a position is, and which of its rows."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from tokenstore.loading.sampling.order import MOST_SAMPLES, Indices, Order, positions_within, whole_number
from tokenstore.machine import compiled

__all__ = ["Mixture", "Stopping"]

Stopping: TypeAlias = Literal["all_exhausted", "first_exhausted"]

_SHARE_BITS = 62
_KEPT_PASSES = 4
"""Orders kept of each source: batches that are read ahead are seldom further than this apart."""

_LOW, _LOW_BITS = np.uint64(2**32 - 1), np.uint64(32)
_HALF, _UP, _DOWN = np.uint64(1 << (_SHARE_BITS - 1)), np.uint64(64 - _SHARE_BITS), np.uint64(_SHARE_BITS)


class Mixture:
    """Draws from several sources; indices are into their concatenation.

    `orders[i](q)` is the order of source i in its pass q through its rows[i] rows, counted from 0 over all
    epochs: a source that is not exhausted in an epoch goes on in the next where it stopped, one that is
    begins a new pass. Of the first p positions of an epoch, source i has p * weights[i] / sum(weights),
    within (1 + H) / 2, H = 1 + 1/2 + ... + 1 / (n - 2), of n sources: 1/2 for two, 1 for three, 1.9 for
    ten. Without weights, they are the rows: each row comes once an epoch.
    The epoch ends before a source would have to begin again (stopping="first_exhausted"), or as soon as all
    have given as many rows as they have ("all_exhausted"). It pickles where `orders` do.
    Raises ValueError for other values of stopping, sources without rows, numbers of orders, rows and weights
    that differ, weights that are not positive finite numbers, or so uneven that an epoch has no end.
    """

    def __init__(
        self,
        orders: Sequence[Callable[[int], Order]],
        rows: Sequence[int],
        weights: Sequence[float] | None = None,
        stopping: Stopping = "all_exhausted",
        epoch: int = 0,
    ) -> None:
        self._arguments = (
            tuple(orders),
            tuple(rows),
            None if weights is None else tuple(weights),
            stopping,
            epoch,
        )
        self._rows = [whole_number(f"rows of source {i}", n, 1, MOST_SAMPLES) for i, n in enumerate(rows)]
        epoch = whole_number("epoch", epoch, 0)
        if stopping not in get_args(Stopping):
            raise ValueError(f"stopping: expected one of {', '.join(get_args(Stopping))}, found {stopping!r}")
        fractions = _checked_weights(self._rows if weights is None else weights)
        if not len(orders) == len(self._rows) == len(fractions) > 0:
            raise ValueError(
                "expected an order, a number of rows and a weight for each of at least one source, "
                f"found {len(orders)}, {len(self._rows)} and {len(fractions)}"
            )
        if sum(self._rows) > MOST_SAMPLES:
            raise ValueError(f"rows: expected at most {MOST_SAMPLES} in all, found {sum(self._rows)}")
        self._orders = [lru_cache(maxsize=_KEPT_PASSES)(make) for make in orders]
        self._first_rows = [sum(self._rows[:i]) for i in range(len(self._rows))]
        self._sources = np.array(sorted(range(len(fractions)), key=lambda i: -fractions[i]), np.int64)
        self._shares = _shares([fractions[i] for i in self._sources])
        self._length = self._end(stopping)
        self._begun = [
            divmod(epoch * n, rows) for n, rows in zip(self._counts(self._length), self._rows, strict=True)
        ]

    def __len__(self) -> int:
        return self._length

    def __repr__(self) -> str:
        _, rows, weights, stopping, epoch = self._arguments
        return f"Mixture(rows={rows}, weights={weights}, stopping={stopping!r}, epoch={epoch})"

    def __reduce__(self) -> tuple[type[Mixture], tuple[Any, ...]]:
        return Mixture, self._arguments

    def __call__(self, positions: Indices) -> Indices:
        """The rows (n,) int64 at positions (n,); raises IndexError for one out of range."""
        draws = positions_within(positions, self._length)
        turns = np.empty_like(draws)
        _take_turns(draws, self._shares, turns)
        sources = self._sources[turns]
        for source in np.unique(sources).tolist():
            chosen = np.flatnonzero(sources == source)
            draws[chosen] = self._first_rows[source] + self._drawn(source, draws[chosen])
        return draws

    def _drawn(self, source: int, draws: Indices) -> Indices:
        """A source's own rows (n,) at its draws (n,) of this epoch."""
        passes_before, row_before = self._begun[source]
        passes, places = np.divmod(row_before + draws, self._rows[source])
        by_pass = np.argsort(passes)
        for group in np.split(by_pass, np.flatnonzero(np.diff(passes[by_pass])) + 1):
            order = self._orders[source](passes_before + int(passes[group[0]]))
            places[group] = order(places[group])
        return places

    def _counts(self, positions: int) -> list[int]:
        """How many of the epoch's first positions belong to each source."""
        counts = [0] * len(self._rows)
        for source, share in zip(self._sources.tolist(), self._shares.tolist(), strict=False):
            counts[source] = _portion_of(positions, share)
            positions -= counts[source]
        counts[int(self._sources[-1])] = positions
        return counts

    def _end(self, stopping: Stopping) -> int:
        def over(positions: int) -> bool:
            pairs = zip(self._counts(positions), self._rows, strict=True)
            if stopping == "first_exhausted":
                return any(count > rows for count, rows in pairs)
            return all(count >= rows for count, rows in pairs)

        if not over(MOST_SAMPLES):
            raise ValueError(
                f"weights: expected each source to give its rows within {MOST_SAMPLES} draws, "
                f"found weights {self._arguments[2]} for {self._rows} rows; make them less uneven"
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


def _shares(weights: list[Fraction]) -> Any:
    """Each weight (sources - 1,) uint64 as a share of itself and all later ones, in units of 2**-62.

    subtle: rounded shares and rounded portions make the counts of an epoch of as many positions as there are
    rows exact, where the weights are the rows: the error is below 2**62 * 2**-63 before the second rounding.
    """
    left = sum(weights)
    shares = np.empty(len(weights) - 1, np.uint64)
    for number, weight in enumerate(weights[:-1]):
        shares[number] = round(weight / left * (1 << _SHARE_BITS))
        left -= weight
    return shares


def _portion_of(positions: int, share: int) -> int:
    """How many of the positions a share of them is, rounded."""
    return (positions * share + (1 << (_SHARE_BITS - 1))) >> _SHARE_BITS


@compiled
def _portion(positions: Any, share: Any) -> Any:
    """`_portion_of` in unsigned 64-bit arithmetic, by a product of 128 bits."""
    low = (positions & _LOW) * (share & _LOW)
    middle = (positions >> _LOW_BITS) * (share & _LOW) + (low >> _LOW_BITS)
    crossed = (positions & _LOW) * (share >> _LOW_BITS) + (middle & _LOW)
    high = (positions >> _LOW_BITS) * (share >> _LOW_BITS) + (middle >> _LOW_BITS) + (crossed >> _LOW_BITS)
    low = (crossed << _LOW_BITS) | (low & _LOW)
    rounded = low + _HALF
    if rounded < low:
        high += np.uint64(1)
    return (high << _UP) | (rounded >> _DOWN)


@compiled
def _take_turns(positions: Any, shares: Any, turns: Any) -> None:
    """Writes whose turn each position (n,) is, in the order of shares, and replaces it by its draw."""
    for number in range(len(positions)):
        left = np.uint64(positions[number])
        turn = 0
        while turn < len(shares):
            before = _portion(left, shares[turn])
            if _portion(left + np.uint64(1), shares[turn]) > before:
                left = before
                break
            left -= before
            turn += 1
        positions[number] = left
        turns[number] = turn
