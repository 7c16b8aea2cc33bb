"""Permutations hold every row once, never change, and are unrelated for different keys."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from collections import Counter
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from helpers.growth import start_tracing, stop_tracing
from helpers.orders import plain_permutation, whole
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenstore.loading.sampling import (
    BlockShuffle,
    Mixture,
    Permutation,
    Sequential,
)

KEYS = st.lists(st.integers(-(2**63), 2**64 - 1), max_size=3)
SIZES = st.integers(1, 2**62) | st.integers(1, 3000)


def chi_square(counts: npt.ArrayLike) -> float:
    """Return by how many standard deviations the statistic of equally likely counts exceeds its mean."""
    found = np.asarray(counts, float)
    expected, freedom = found.mean(), found.size - 1
    return float((((found - expected) ** 2 / expected).sum() - freedom) / math.sqrt(2 * freedom))


@settings(deadline=None)
@given(SIZES, KEYS, st.data())
def test_the_compiled_permutation_is_the_plain_one(samples: int, key: list[int], data: st.DataObject) -> None:
    positions = data.draw(st.lists(st.integers(0, samples - 1), max_size=5))
    expected = [plain_permutation(samples, tuple(key), position) for position in positions]
    assert Permutation(samples, *key)(np.array(positions, np.int64)).tolist() == expected


@settings(deadline=None)
@given(st.integers(0, 3000), KEYS)
def test_a_permutation_holds_every_row_once(samples: int, key: list[int]) -> None:
    assert (np.sort(whole(Permutation(samples, *key))) == np.arange(samples)).all()


@settings(deadline=None)
@given(SIZES, KEYS, st.data())
def test_the_inverse_finds_the_position_of_a_row(samples: int, key: list[int], data: st.DataObject) -> None:
    positions = np.array(data.draw(st.lists(st.integers(0, samples - 1), max_size=20)), np.int64)
    order = Permutation(samples, *key)
    assert (order.inverse(order(positions)) == positions).all()
    assert (order(order.inverse(positions)) == positions).all()


def test_the_order_is_the_one_of_every_version_and_platform() -> None:
    """Stored seeds and resumed epochs depend on these numbers: they must never change."""
    assert whole(Permutation(7, 3)).tolist() == [2, 3, 5, 4, 0, 6, 1]
    assert Permutation(1000, 1, 2)(np.arange(10)).tolist() == [173, 667, 993, 3, 375, 104, 458, 321, 731, 815]
    assert Permutation(1024, 1, 2)(np.arange(10)).tolist() == [78, 48, 324, 366, 786, 11, 210, 617, 819, 183]
    ends = np.array([0, 1, 10**10 - 1])
    assert Permutation(10**10, 0, 0)(ends).tolist() == [1641248839, 4742698094, 3840923124]
    ends = np.array([0, 2**62 - 1])
    assert Permutation(2**62, -1)(ends).tolist() == [1408471292186449424, 715534167705172767]
    assert whole(BlockShuffle(np.array([0, 3, 4, 8, 10]), 2, 5, 6)).tolist() == [5, 3, 7, 4, 6, 9, 8, 2, 0, 1]
    mixture = Mixture([partial(Permutation, 5, 1), partial(Permutation, 3, 2)], [5, 3], [1, 2], epoch=1)
    assert mixture(np.arange(9)).tolist() == [6, 2, 5, 7, 3, 5, 6, 4, 7]


@pytest.mark.parametrize("samples", [2, 3, 4, 5, 6, 9])
def test_all_permutations_of_few_rows_are_equally_frequent(samples: int) -> None:
    orders = [tuple(whole(Permutation(samples, 11, epoch)).tolist()) for epoch in range(30_000)]
    if samples <= 6:
        counts = Counter(orders)
        assert chi_square([counts[p] for p in itertools.permutations(range(samples))]) < 4
    else:
        odd = sum(sum(a > b for a, b in itertools.combinations(order, 2)) % 2 for order in orders[:5000])
        assert chi_square([odd, 5000 - odd]) < 4


@pytest.mark.parametrize("samples", [100, 1023, 1300, 100_003])
def test_neighbours_epochs_and_seeds_are_unrelated(samples: int) -> None:
    """Test 4,000 epochs and 4,000 seeds: rows, steps to the neighbour's and to the next epoch's."""
    positions = np.array([0, 1, samples // 2, samples // 2 + 1])
    for keys in ([(5, epoch) for epoch in range(4000)], [(seed, 5) for seed in range(4000)]):
        drawn = np.array([Permutation(samples, *key)(positions) for key in keys])
        for numbers in (
            drawn[:, 0],
            drawn[:, 2],
            (drawn[:, 1] - drawn[:, 0] - 1) % samples * samples // (samples - 1),
            (drawn[:, 3] - drawn[:, 2] - 1) % samples * samples // (samples - 1),
            (drawn[1:, 0] - drawn[:-1, 0]) % samples,
        ):
            assert chi_square(np.bincount(numbers * 20 // samples, minlength=20)[:20]) < 5


def test_batches_are_spread_over_all_rows() -> None:
    rows = whole(Permutation(100_000, 3, 4))[: 390 * 256].reshape(390, 256)
    worst = [chi_square(np.bincount(batch * 16 // 100_000, minlength=16)) for batch in rows]
    assert np.mean(worst) == pytest.approx(0, abs=0.3)
    assert max(worst) < 7


def test_keys_of_other_order_or_length_give_other_permutations() -> None:
    keys = [(), (0,), (0, 0), (1,), (1, 0), (0, 1), (1, 2), (2, 1), (-1,), (2**63,), (1, 2, 0)]
    orders = {tuple(whole(Permutation(50, *key)).tolist()) for key in keys}
    assert len(orders) == len(keys)


@pytest.mark.parametrize("key", [(2**64,), (-(2**63) - 1,), (1, 2**70), (1.5,), ("1",), (None,)])
def test_a_seed_that_does_not_fit_is_refused(key: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match="seed: expected whole numbers"):
        Permutation(10, *key)


@pytest.mark.parametrize("samples", [-1, 2**62 + 1, 1.0, None])
def test_a_number_of_samples_that_cannot_be_is_refused(samples: Any) -> None:
    for make in (Permutation, Sequential):
        with pytest.raises(
            ValueError, match=r"samples: expected a whole number in \[0, 4611686018427387904\]"
        ):
            make(samples)


def test_ten_billion_rows_take_no_memory() -> None:
    positions = np.linspace(0, 10**10 - 1, 1000).astype(np.int64)
    Permutation(10**10, 1)(positions)
    start_tracing()
    order = Permutation(10**10, 2, 3)
    rows = order(positions)
    peak = tracemalloc.get_traced_memory()[1]
    stop_tracing()
    assert len(np.unique(rows)) == 1000
    assert (order.inverse(rows) == positions).all()
    assert peak < 100_000
