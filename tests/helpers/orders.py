"""Orders in tests: all row numbers of an epoch, and the plain forms of compiled permutations."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from tokenstore.loading.sampling import (
    Order,
)


def whole(order: Order) -> npt.NDArray[np.int64]:
    return order(np.arange(len(order)))


def starts_of(sizes: list[int]) -> npt.NDArray[np.int64]:
    return np.cumsum([0, *sizes])


WORD = 2**64
GAMMA = 0x9E3779B97F4A7C15


def plain_mixed(x: int) -> int:
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % WORD
    x = (x ^ x >> 27) * 0x94D049BB133111EB % WORD
    return x ^ x >> 31


def plain_key(*key: int) -> int:
    """Hash a key of integers."""
    state = 0
    for word in key:
        state = plain_mixed(((state ^ word % WORD) + GAMMA) % WORD)
    return state


def plain_permutation(samples: int, key: tuple[int, ...], position: int) -> int:
    return plain_network(samples, plain_key(*key, samples), 24 if samples < 1024 else 8, position)


def plain_network(samples: int, state: int, rounds: int, position: int) -> int:
    """Return where a Feistel network moves a position, with the rounds' keys that a hashed key gives."""
    a = math.isqrt(samples - 1) + 1
    b = -(-samples // a)
    b += a % 2 * (b % 2)
    sides = (a, b)
    while True:
        halves = list(divmod(position, b))
        for number in range(rounds):
            key_of_round = plain_mixed((state + (number + 1) * GAMMA) % WORD)
            moved, other = number % 2, 1 - number % 2
            hashed = plain_mixed((key_of_round + halves[other] * GAMMA) % WORD)
            halves[moved] = (halves[moved] + ((hashed >> 32) * sides[moved] >> 32)) % sides[moved]
        position = halves[0] * b + halves[1]
        if position < samples:
            return position


@st.composite
def epochs(draw: st.DrawFn) -> tuple[int, int]:
    """Draw a number of samples, and how many of them are consumed."""
    samples = draw(st.integers(0, 400))
    return samples, draw(st.integers(0, samples))
