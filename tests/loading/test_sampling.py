"""Orders are permutations that never change; steps give every rank its part, and each position once."""

from __future__ import annotations

import itertools
import math
import pickle
import tracemalloc
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tokenstore.loading.sampling import (
    BlockShuffle,
    Mixture,
    Order,
    Permutation,
    Sequential,
    Steps,
    bounded_starts,
    feistel,
    shuffle_quality,
)

KEYS = st.lists(st.integers(-(2**63), 2**64 - 1), max_size=3)
SIZES = st.integers(1, 2**62) | st.integers(1, 3000)
BLOCK_SIZES = st.lists(st.integers(1, 20), min_size=1, max_size=30)
WORD = 2**64


def whole(order: Order) -> npt.NDArray[np.int64]:
    return order(np.arange(len(order)))


def starts_of(sizes: list[int]) -> npt.NDArray[np.int64]:
    return np.cumsum([0, *sizes])


def chi_square(counts: npt.ArrayLike) -> float:
    """Return by how many standard deviations the statistic of equally likely counts exceeds its mean."""
    found = np.asarray(counts, float)
    expected, freedom = found.mean(), found.size - 1
    return float((((found - expected) ** 2 / expected).sum() - freedom) / math.sqrt(2 * freedom))


# Permutation


def plain_mixed(x: int) -> int:
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % WORD
    x = (x ^ x >> 27) * 0x94D049BB133111EB % WORD
    return x ^ x >> 31


def plain_permutation(samples: int, key: tuple[int, ...], position: int) -> int:
    gamma = 0x9E3779B97F4A7C15
    state = 0
    for word in (*key, samples):
        state = plain_mixed(((state ^ word % WORD) + gamma) % WORD)
    a = math.isqrt(samples - 1) + 1
    b = -(-samples // a)
    b += a % 2 * (b % 2)
    sides = (a, b)
    while True:
        halves = list(divmod(position, b))
        for number in range(24 if samples < 1024 else 8):
            key_of_round = plain_mixed((state + (number + 1) * gamma) % WORD)
            moved, other = number % 2, 1 - number % 2
            hashed = plain_mixed((key_of_round + halves[other] * gamma) % WORD)
            halves[moved] = (halves[moved] + ((hashed >> 32) * sides[moved] >> 32)) % sides[moved]
        position = halves[0] * b + halves[1]
        if position < samples:
            return position


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
    tracemalloc.start()
    order = Permutation(10**10, 2, 3)
    rows = order(positions)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(np.unique(rows)) == 1000
    assert (order.inverse(rows) == positions).all()
    assert peak < 100_000


# All orders

BLOCKS = starts_of([5, 1, 8, 8, 2, 30, 8])
ORDERS: list[Any] = [
    Sequential(62),
    Permutation(62, 4, 5),
    BlockShuffle(BLOCKS, 3, 4, 5),
    BlockShuffle(BLOCKS, 100, 4, 5),
    Mixture([partial(Permutation, 40, 1), partial(Permutation, 22, 2)], [40, 22], [1, 3], epoch=4),
    Mixture([partial(Permutation, 9, 1)], [9]),
]
each_order = pytest.mark.parametrize("order", ORDERS, ids=lambda order: type(order).__name__)


@each_order
def test_many_positions_at_once_give_what_single_ones_do(order: Order) -> None:
    singly = [int(order(np.array([position]))[0]) for position in range(len(order))]
    assert whole(order).tolist() == singly
    mixed = np.random.default_rng(0).permutation(len(order)).repeat(2)
    assert order(mixed).tolist() == [singly[position] for position in mixed]
    assert order(mixed.astype(np.uint16)[::2]).tolist() == [singly[position] for position in mixed[::2]]


@each_order
def test_an_order_changes_neither_its_argument_nor_itself(order: Order) -> None:
    positions = np.arange(len(order))
    positions.flags.writeable = False
    first = order(positions)
    first[:] = -1
    assert order(positions).min() >= 0
    assert order(positions).dtype == np.int64
    assert (positions == np.arange(len(order))).all()
    assert order(np.array([], np.int64)).shape == order([]).shape == (0,)


@each_order
def test_an_order_is_the_same_after_pickling_and_in_threads(order: Order) -> None:
    expected = whole(order).tolist()
    copy = pickle.loads(pickle.dumps(order))
    assert whole(copy).tolist() == expected
    assert repr(copy) == repr(order)
    assert len(repr(order)) < 200
    with ThreadPoolExecutor(8) as pool:
        assert all(found.tolist() == expected for found in pool.map(whole, [copy] * 50))


@each_order
def test_a_position_outside_the_epoch_is_refused(order: Order) -> None:
    for wrong in (-1, len(order), 2**62, np.iinfo(np.int64).min):
        with pytest.raises(IndexError, match=rf"expected each in \[0, {len(order)}\), found {wrong};"):
            order(np.array([0, wrong, 1]))
    with pytest.raises(IndexError, match=r"expected \(n,\) integers, found float64 of shape \(1,\)"):
        order(np.array([0.5]))
    with pytest.raises(IndexError, match=r"of shape \(2, 2\)"):
        order(np.zeros((2, 2), np.int64))


def test_positions_beyond_signed_numbers_are_refused() -> None:
    with pytest.raises(IndexError, match=f"found {2**64 - 1}"):
        Permutation(5)(np.array([2**64 - 1], np.uint64))


def test_an_empty_order_has_no_positions() -> None:
    for order in (Sequential(0), Permutation(0, 1), BlockShuffle(np.array([0]), 4, 1, 1)):
        assert len(order) == len(whole(order)) == 0
        with pytest.raises(IndexError):
            order(np.array([0]))


def test_the_kernels_release_the_gil() -> None:
    kernels = (feistel.permuted, feistel.inverted, feistel.window_rows)
    assert all(kernel.targetoptions["nogil"] for kernel in kernels)


# BlockShuffle


@settings(deadline=None)
@given(BLOCK_SIZES, st.integers(1, 35), st.integers(0, 2**64 - 1), st.integers(0, 1000))
def test_a_window_is_a_full_shuffle_of_its_own_blocks(
    sizes: list[int], window: int, seed: int, epoch: int
) -> None:
    starts = starts_of(sizes)
    order = BlockShuffle(starts, window, seed, epoch)
    blocks = whole(Permutation(len(sizes), seed, epoch)).tolist()
    expected: list[int] = []
    assert order.windows == -(-len(sizes) // window)
    for number in range(order.windows):
        mine = blocks[number * window : (number + 1) * window]
        rows = np.concatenate([np.arange(starts[block], starts[block + 1]) for block in mine])
        assert order.window_span(number) == (len(expected), len(expected) + len(rows))
        assert (order.window_of(np.arange(*order.window_span(number))) == number).all()
        np.testing.assert_array_equal(np.sort(order.window_blocks(number)), np.sort(rows))
        expected += rows[whole(Permutation(len(rows), seed, epoch, number))].tolist()
    assert len(order) == sum(sizes)
    assert whole(order).tolist() == expected
    assert sorted(expected) == list(range(sum(sizes)))


def test_epochs_and_seeds_shuffle_blocks_and_windows_anew() -> None:
    starts = np.arange(0, 1001, 10)
    orders = [whole(BlockShuffle(starts, 8, seed, epoch)) for seed in range(3) for epoch in range(3)]
    for first, second in itertools.combinations(orders, 2):
        assert (first == second).mean() < 0.05
        assert not np.array_equal(np.unique(first[:80] // 10), np.unique(second[:80] // 10))


def test_there_is_no_window_after_the_last() -> None:
    order = BlockShuffle(np.array([0, 4, 9]), 1, 0, 0)
    for wrong in (-1, 2):
        with pytest.raises(IndexError, match=f"window: expected one of 2, counted from 0, found {wrong}"):
            order.window_span(wrong)
        with pytest.raises(IndexError):
            order.window_blocks(wrong)
    with pytest.raises(IndexError):
        order.window_of(np.array([9]))


@pytest.mark.parametrize(
    "starts", [[], [1, 2], [0, 2, 2], [0, 3, 1], [0.0, 1.0], [[0, 1]], [0, 2**62 + 1], [-1, 3]]
)
def test_starts_that_do_not_ascend_from_zero_are_refused(starts: Any) -> None:
    for use in (lambda: BlockShuffle(starts, 1, 0, 0), lambda: bounded_starts(starts, 5)):
        with pytest.raises(ValueError, match="starts: expected"):
            use()
    with pytest.raises(ValueError, match="window: expected a whole number of at least 1, found 0"):
        BlockShuffle(np.array([0, 1]), 0, 0, 0)


@settings(deadline=None)
@given(BLOCK_SIZES, st.integers(1, 40))
def test_joined_blocks_are_whole_neighbours_and_few_enough(sizes: list[int], limit: int) -> None:
    starts = starts_of(sizes)
    joined = bounded_starts(starts, limit)
    assert len(joined) - 1 <= limit
    assert set(joined.tolist()) <= set(starts.tolist())
    assert (joined[0], joined[-1]) == (0, starts[-1])
    assert (np.diff(joined) > 0).all()
    if len(sizes) <= limit:
        assert (joined == starts).all()


# Mixture

SOURCES = st.lists(st.integers(1, 40), min_size=1, max_size=6)
WEIGHTS = st.floats(0.01, 100) | st.integers(1, 100)


def plain_turns(weights: list[Fraction]) -> Any:
    """Yields whose turn it is, for ever: source k of those not yet asked has its share, rounded."""
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


# Steps

WORLDS = st.integers(1, 16)
BATCHES = st.integers(1, 20)


def taken(steps: Steps) -> list[int]:
    """Return all positions, step by step and within a step rank by rank."""
    spans = [steps.span(step, rank) for step in range(len(steps)) for rank in range(steps.world_size)]
    assert all(start < stop for start, stop in spans), "a rank has nothing in a step"
    assert all(stop - start <= steps.batch_size for start, stop in spans)
    return [position for start, stop in spans for position in range(start, stop)]


def repeats_needed(left: int, batch_size: int, world_size: int) -> int:
    if batch_size == 1:
        return -left % world_size
    return max(0, world_size - left) if left else 0


@st.composite
def epochs(draw: st.DrawFn) -> tuple[int, int]:
    """Draw a number of samples, and how many of them are consumed."""
    samples = draw(st.integers(0, 400))
    return samples, draw(st.integers(0, samples))


@settings(deadline=None)
@given(epochs(), BATCHES, WORLDS)
def test_every_remaining_position_is_taken_once_and_in_order(
    epoch: tuple[int, int], batch_size: int, world_size: int
) -> None:
    samples, consumed = epoch
    steps = Steps(samples, batch_size, world_size, consumed=consumed)
    repeats = repeats_needed(samples - consumed, batch_size, world_size)
    assert taken(steps) == list(range(consumed, samples + repeats))
    assert len(steps) == -(-(samples - consumed) // (batch_size * world_size))


@settings(deadline=None)
@given(epochs(), BATCHES, WORLDS)
def test_padded_steps_are_all_full(epoch: tuple[int, int], batch_size: int, world_size: int) -> None:
    samples, consumed = epoch
    steps = Steps(samples, batch_size, world_size, pad=True, consumed=consumed)
    size = batch_size * world_size
    assert taken(steps) == list(range(consumed, consumed + size * -(-(samples - consumed) // size)))
    assert all(np.diff(steps.span(s, r)) == batch_size for s in range(len(steps)) for r in range(world_size))


@settings(deadline=None)
@given(epochs(), BATCHES, WORLDS)
def test_dropping_the_last_step_leaves_full_ones(
    epoch: tuple[int, int], batch_size: int, world_size: int
) -> None:
    samples, consumed = epoch
    steps = Steps(samples, batch_size, world_size, drop_last=True, consumed=consumed)
    size = batch_size * world_size
    assert taken(steps) == list(range(consumed, consumed + (samples - consumed) // size * size))


@settings(deadline=None)
@given(epochs(), BATCHES, WORLDS)
def test_the_ranks_of_a_step_differ_by_one_sample_at_most(
    epoch: tuple[int, int], batch_size: int, world_size: int
) -> None:
    samples, consumed = epoch
    steps = Steps(samples, batch_size, world_size, consumed=consumed)
    for step in range(len(steps)):
        sizes = [stop - start for start, stop in (steps.span(step, rank) for rank in range(world_size))]
        assert max(sizes) - min(sizes) <= 1
        if step < len(steps) - 2:
            assert set(sizes) == {batch_size}


@settings(deadline=None)
@given(epochs(), BATCHES, WORLDS, BATCHES, WORLDS, st.booleans())
def test_resuming_after_any_step_on_other_ranks_gives_the_rest_and_nothing_else(
    epoch: tuple[int, int], batch_size: int, world_size: int, batch_then: int, world_then: int, pad: bool
) -> None:
    samples, consumed = epoch
    steps = Steps(samples, batch_size, world_size, pad=pad, consumed=consumed)
    before = 0
    for step in range(len(steps)):
        before += sum(stop - start for start, stop in (steps.span(step, r) for r in range(world_size)))
        after = steps.consumed_after(step)
        assert after == min(samples, consumed + before)
        rest = taken(Steps(samples, batch_then, world_then, consumed=after))
        assert rest[: samples - after] == list(range(after, samples))
        assert len(rest) == samples - after + repeats_needed(samples - after, batch_then, world_then)
    assert len(steps) == 0 or steps.consumed_after(len(steps) - 1) == samples


@settings(deadline=None)
@given(epochs(), BATCHES, WORLDS, st.sampled_from(["drop_last", "pad", None]))
def test_resuming_on_the_same_ranks_goes_on_with_the_same_steps(
    epoch: tuple[int, int], batch_size: int, world_size: int, last: str | None
) -> None:
    samples, consumed = epoch
    make = partial(Steps, samples, batch_size, world_size, drop_last=last == "drop_last", pad=last == "pad")
    steps = make(consumed=consumed)
    spans = [[steps.span(step, rank) for rank in range(world_size)] for step in range(len(steps))]
    for step in range(len(steps)):
        rest = make(consumed=steps.consumed_after(step))
        assert [[rest.span(s, r) for r in range(world_size)] for s in range(len(rest))] == spans[step + 1 :]


def test_the_step_before_lends_what_the_last_is_missing() -> None:
    steps = Steps(samples=17, batch_size=2, world_size=4)
    spans = [[steps.span(step, rank) for rank in range(4)] for step in range(3)]
    assert spans[0] == [(0, 2), (2, 4), (4, 6), (6, 8)]
    assert spans[1] == [(8, 9), (9, 10), (10, 11), (11, 13)]
    assert spans[2] == [(13, 14), (14, 15), (15, 16), (16, 17)]
    assert [steps.consumed_after(step) for step in range(3)] == [8, 13, 17]


def test_too_few_positions_for_all_ranks_are_repeated_from_the_epochs_start() -> None:
    assert taken(Steps(samples=2, batch_size=8, world_size=5)) == [0, 1, 2, 3, 4]
    assert taken(Steps(samples=5, batch_size=1, world_size=3)) == [0, 1, 2, 3, 4, 5]
    assert Steps(samples=2, batch_size=8, world_size=5).consumed_after(0) == 2
    assert len(Steps(samples=5, batch_size=1, consumed=5)) == len(Steps(samples=0, batch_size=1)) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"samples": -1}, "samples: expected a whole number in"),
        ({"batch_size": 0}, "batch_size: expected a whole number of at least 1, found 0"),
        ({"batch_size": 2.0}, r"batch_size: expected a whole number of at least 1, found 2\.0"),
        ({"world_size": 0}, "world_size: expected a whole number of at least 1, found 0"),
        ({"consumed": 11}, r"consumed: expected a whole number in \[0, 10\], found 11"),
        ({"consumed": -1}, "consumed: expected"),
        ({"drop_last": True, "pad": True}, "drop_last, pad: expected one at most"),
    ],
)
def test_steps_that_cannot_be_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Steps(**{"samples": 10, "batch_size": 2, **arguments})


def test_there_is_no_step_or_rank_after_the_last() -> None:
    steps = Steps(10, 2, 2)
    for step, rank in ((3, 0), (-1, 0), (0, 2), (0, -1)):
        with pytest.raises(IndexError, match="counted from 0, found"):
            steps.span(step, rank)
    for step in (3, -1):
        with pytest.raises(IndexError, match="step: expected one of 3"):
            steps.consumed_after(step)


# Shuffle quality


def test_a_full_shuffle_has_a_quality_of_one() -> None:
    labels = np.arange(50_000) // 500
    quality = shuffle_quality(Permutation(50_000, 1), np.arange(0, 50_001, 100), 256, labels=labels)
    assert quality.batches == 100
    assert quality.blocks == pytest.approx(quality.blocks_expected, rel=0.01)
    assert quality.classes == pytest.approx(quality.classes_expected, rel=0.01)
    assert 0.99 < quality.figure <= 1


def test_rows_sorted_by_class_and_not_shuffled_have_the_quality_they_deserve() -> None:
    labels = np.arange(50_000) // 500
    quality = shuffle_quality(Sequential(50_000), np.arange(0, 50_001, 100), 250, 200, labels)
    assert (quality.blocks, quality.classes) == (3, 1)
    assert quality.classes_expected == pytest.approx(100 * (1 - 0.99**250), rel=0.001)
    assert quality.figure == 1 / quality.classes_expected < 3 / quality.blocks_expected


def test_quality_grows_with_the_window() -> None:
    starts = np.arange(0, 50_001, 100)
    labels = np.arange(50_000) // 500
    found = [
        shuffle_quality(BlockShuffle(starts, window, 1, 0), starts, 256, labels=labels).figure
        for window in (1, 4, 16, 64, 500)
    ]
    assert found == sorted(found)
    assert found[0] < 0.02
    assert found[-1] > 0.98


@settings(deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.data())
def test_the_expectation_is_that_of_all_possible_batches(sizes: list[int], data: st.DataObject) -> None:
    rows = sum(sizes)
    batch_size = data.draw(st.integers(1, rows))
    labels = np.repeat(np.arange(len(sizes)) * 3, sizes)
    quality = shuffle_quality(Sequential(rows), starts_of(sizes), batch_size, labels=labels)
    distinct = [len(set(batch)) for batch in itertools.combinations(labels.tolist(), batch_size)]
    assert quality.blocks_expected == pytest.approx(np.mean(distinct))
    assert quality.classes_expected == pytest.approx(np.mean(distinct))


def test_a_batch_is_no_larger_than_the_epoch() -> None:
    quality = shuffle_quality(Sequential(10), np.array([0, 5, 10]), 1000)
    assert (quality.batch_size, quality.batches, quality.figure, quality.classes) == (10, 1, 1.0, None)


def test_a_quality_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        shuffle_quality(Sequential(0), np.array([0]), 5)
    with pytest.raises(ValueError, match=r"labels: expected shape \(10,\), found \(9,\)"):
        shuffle_quality(Sequential(10), np.array([0, 10]), 5, labels=np.zeros(9, np.int64))
    with pytest.raises(ValueError, match="batch_size"):
        shuffle_quality(Sequential(10), np.array([0, 10]), 0)
