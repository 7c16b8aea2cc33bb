"""All orders: many positions at once give what single ones do, and positions outside are refused."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pytest
from helpers.orders import starts_of, whole

from tokenstore.loading.sampling import (
    BlockShuffle,
    Mixture,
    Order,
    Permutation,
    Sequential,
    feistel,
)

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
