"""A mixture draws from its sources in proportion, and goes on where an epoch stopped."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import pytest
from helpers.orders import whole
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tokenstore.loading.sampling import (
    Mixture,
    Order,
    Permutation,
    Sequential,
)

SOURCES = st.lists(st.integers(1, 40), min_size=1, max_size=6)
WEIGHTS = st.floats(0.01, 100) | st.integers(1, 100)


def plain_turns(weights: list[Fraction]) -> Any:
    """Yield the source whose turn it is, for ever: source k of those not yet asked has its share, rounded."""
    ranked = sorted(range(len(weights)), key=lambda i: -weights[i])
    shares = [round(weights[s] / sum(weights[t] for t in ranked[k:]) * 2**62) for k, s in enumerate(ranked)]
    for position in itertools.count():
        left = position
        for source, share in zip(ranked, shares, strict=True):
            before, after = (p * share + 2**61 >> 62 for p in (left, left + 1))
            if after > before:
                yield source
                break
            left -= before


@settings(deadline=None)
@given(SOURCES, st.data(), st.sampled_from(["first_exhausted", "all_exhausted"]))
def test_a_mixture_is_the_plain_loop_over_its_sources(
    rows: list[int], data: st.DataObject, stopping: Any
) -> None:
    """Three epochs, one draw after the other; a row is named by (source, pass, its place in the pass)."""
    weights = data.draw(st.none() | st.lists(WEIGHTS, min_size=len(rows), max_size=len(rows)))
    orders = [partial(Permutation, n, source) for source, n in enumerate(rows)]
    fractions = [Fraction(weight) for weight in weights or rows]
    assume(max(fractions) / min(fractions) < 200)
    before = [0] * len(rows)
    for epoch in range(3):
        counts, expected = [0] * len(rows), []
        for source in plain_turns(fractions):
            if stopping == "first_exhausted" and counts[source] == rows[source]:
                break
            if stopping == "all_exhausted" and all(c >= n for c, n in zip(counts, rows, strict=True)):
                break
            number, place = divmod(before[source] + counts[source], rows[source])
            expected.append(sum(rows[:source]) + int(orders[source](number)(np.array([place]))[0]))
            counts[source] += 1
        mixture = Mixture(orders, rows, weights, stopping, epoch)
        assert whole(mixture).tolist() == expected
        before = [n + count for n, count in zip(before, counts, strict=True)]


@settings(deadline=None)
@given(st.lists(WEIGHTS, min_size=1, max_size=12))
def test_every_beginning_of_an_epoch_has_the_proportions_asked_for(weights: list[float]) -> None:
    rows = [1000] * len(weights)
    mixture = Mixture([partial(Permutation, 1000)] * len(weights), rows, weights)
    length = min(len(mixture), 2000)
    sources = mixture(np.arange(length)) // 1000
    counts = np.cumsum(sources[:, None] == np.arange(len(weights)), axis=0)
    wanted = np.arange(1, length + 1)[:, None] * (np.array(weights) / math.fsum(weights))
    bound = (1 + sum(1 / n for n in range(1, len(weights) - 1))) / 2
    assert np.abs(counts - wanted).max() <= bound + 1e-6


@settings(deadline=None)
@given(SOURCES, st.sampled_from(["first_exhausted", "all_exhausted"]), st.integers(0, 5))
def test_without_weights_every_row_comes_once_an_epoch(rows: list[int], stopping: Any, epoch: int) -> None:
    mixture = Mixture([partial(Permutation, n, 7) for n in rows], rows, None, stopping, epoch)
    assert sorted(whole(mixture).tolist()) == list(range(sum(rows)))


def test_without_weights_billions_of_rows_come_once_too() -> None:
    rows = [7 * 10**9 + 1, 3, 10**12, 1_281_167, 2**61]
    for stopping in ("first_exhausted", "all_exhausted"):
        assert len(Mixture([Sequential] * 5, rows, None, stopping)) == sum(rows)


def test_proportions_hold_after_billions_of_draws() -> None:
    """Compare the last draws of an epoch of 1.4e12 with exact fractions."""
    weights = [0.1, 0.7, 0.2]
    mixture = Mixture([lambda _: Sequential(10**12)] * 3, [10**12] * 3, weights, "first_exhausted")
    assert len(mixture) == pytest.approx(10**12 / 0.7, abs=3)
    late = np.arange(len(mixture) - 10_000, len(mixture))
    sources, places = np.divmod(mixture(late), 10**12)
    for source, weight in enumerate(weights):
        mine = sources == source
        assert np.abs(places[mine] - late[mine] * Fraction(weight)).max() <= 2


def test_a_larger_source_goes_on_where_it_stopped_and_is_covered_evenly() -> None:
    rows = [1000, 70]
    orders = [partial(Permutation, n, 5) for n in rows]
    epochs = [whole(Mixture(orders, rows, [1, 1], "first_exhausted", epoch)) for epoch in range(100)]
    drawn = np.concatenate(epochs)
    counts = np.bincount(drawn, minlength=1070)
    assert [len(epoch) for epoch in epochs] == [141] * 100
    assert np.bincount(counts[:1000]).tolist() == [0] * 7 + [900, 100]
    assert set(counts[1000:].tolist()) == {100}
    large = drawn[drawn < 1000]
    for number in range(7):
        assert (large[number * 1000 : (number + 1) * 1000] == whole(Permutation(1000, 5, number))).all()


def test_a_smaller_source_is_repeated_in_fresh_orders() -> None:
    rows = [100, 10]
    drawn = whole(Mixture([partial(Permutation, n, 5) for n in rows], rows, [1, 1]))
    assert len(drawn) in (199, 200)
    small = drawn[drawn >= 100][:90].reshape(9, 10)
    assert (np.sort(small) == np.arange(100, 110)).all()
    assert len({tuple(row) for row in small.tolist()}) == 9


def test_orders_are_kept_between_calls_but_not_all_of_them() -> None:
    made: list[int] = []

    def make(number: int) -> Order:
        made.append(number)
        return Permutation(10, number)

    mixture = Mixture([make, partial(Permutation, 1000, 1)], [10, 1000], [1, 1])
    for _ in range(5):
        mixture(np.arange(20))
    assert made == [0]
    whole(mixture)
    assert made == list(range(100))
    mixture(np.arange(20))
    assert made[100:] == [0]


@pytest.mark.parametrize("wrong", [0, -1, math.nan, math.inf, 0.0])
def test_a_weight_that_is_not_positive_and_finite_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match=r"weights: expected positive finite numbers, found .* for source 1"):
        Mixture([Sequential] * 2, [3, 3], [1, wrong])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], []), "found 0, 0 and 0"),
        (([Sequential], [3, 4]), "found 1, 2 and 2"),
        (([Sequential] * 2, [3, 4], [1]), "found 2, 2 and 1"),
        (([Sequential] * 2, [3, 0]), "rows of source 1: expected a whole number in"),
        (([Sequential] * 2, [2**62, 1]), "rows: expected at most"),
        (
            ([Sequential] * 2, [3, 4], None, "never"),
            "stopping: expected one of all_exhausted, first_exhausted",
        ),
        (
            ([Sequential] * 2, [3, 4], None, "all_exhausted", -1),
            "epoch: expected a whole number of at least 0",
        ),
        (([Sequential] * 2, [3, 4], [1, 1e-30]), "make them less uneven"),
    ],
)
def test_a_mixture_that_cannot_be_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mixture(*arguments)
