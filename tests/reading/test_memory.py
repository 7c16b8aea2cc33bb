"""Memory that is used again, though never while anything of it is held."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tokenstore.reading import ReusedMemory


def address(array: np.ndarray) -> int:
    return int(array.ctypes.data)


def test_memory_that_nobody_holds_is_used_again() -> None:
    memory = ReusedMemory(spare=1)
    first = memory.allocate(1000)
    assert (first.shape, first.dtype) == ((1000,), np.uint8)
    place = address(first)
    del first
    assert address(memory.allocate(1000)) == place
    assert address(memory.allocate(700)) == place


@pytest.mark.parametrize(
    "part",
    [
        lambda array: array[10:20],
        lambda array: array[::2].reshape(-1, 5)[1:],
        lambda array: array.view(np.int64)[1:],
        lambda array: np.split(array, 4)[2],
        lambda array: memoryview(array),
        lambda array: np.frombuffer(array, np.uint16),
    ],
)
def test_memory_is_not_used_again_while_any_part_of_it_is_held(part) -> None:  # type: ignore[no-untyped-def]
    memory = ReusedMemory(spare=1)
    whole = memory.allocate(1000)
    place = address(whole)
    held = part(whole)
    del whole
    other = memory.allocate(1000)
    assert address(other) != place
    del held
    assert address(memory.allocate(1000)) == place


def test_only_spare_pieces_are_kept_and_none_for_much_less_or_more_than_it_has() -> None:
    memory = ReusedMemory(spare=1)
    pieces = [memory.allocate(1000) for _ in range(5)]
    places = [address(piece) for piece in pieces]
    while pieces:
        del pieces[0]
    assert address(last := memory.allocate(1000)) == places[-1]
    assert len(memory.allocate(100_000)) == 100_000
    assert last is not None
    assert len(memory.allocate(1)) == 1
    assert len(memory.allocate(0)) == 0


def test_threads_never_share_a_piece() -> None:
    memory = ReusedMemory(spare=4)

    def fill(number: int) -> None:
        for _ in range(200):
            array = memory.allocate(5000)
            array[:] = number
            assert (array == number).all()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(fill, range(8)))


def test_a_copy_of_it_shares_nothing() -> None:
    memory = ReusedMemory(spare=1)
    array = memory.allocate(1000)
    copy = pickle.loads(pickle.dumps(memory))
    assert address(copy.allocate(1000)) != address(array)
