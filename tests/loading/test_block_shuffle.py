"""A block shuffle is a full shuffle of each window of random blocks."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from helpers.orders import starts_of, whole
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenstore.loading.sampling import (
    BlockShuffle,
    Permutation,
    bounded_starts,
)

BLOCK_SIZES = st.lists(st.integers(1, 20), min_size=1, max_size=30)


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
