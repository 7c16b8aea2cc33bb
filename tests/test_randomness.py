"""A key's hash is the same number in plain Python, in compiled code, and in every version."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenstore.loading.sampling import feistel
from tokenstore.randomness import check_key, derived_seed, hashed_key

HASHES = [
    0,
    16294208416658607535,
    12035550249420947055,
    15020427595393229491,
    17866137399852670886,
    1869568459174662326,
]


@settings(deadline=None)
@given(st.lists(st.integers(-(2**63), 2**64 - 1), max_size=5))
def test_the_compiled_hash_of_a_key_is_the_plain_one(key: list[int]) -> None:
    state = np.uint64(0)
    for word in key:
        state = np.uint64(feistel.keyed(state, np.uint64(word % 2**64)))
    assert int(state) == hashed_key(*key)
    assert derived_seed(*key) == int(state) >> 1


def test_the_hash_is_the_one_of_every_version_and_platform() -> None:
    """Losses and augmentations of resumed runs depend on these numbers: they must never change."""
    assert [hashed_key(*key) for key in [(), (0,), (0, 0), (1, 2, 3), (-1, 2**63), (2**64 - 1, 7)]] == HASHES


@pytest.mark.parametrize("key", [(2**64,), (-(2**63) - 1,), (1, 2**70), (1.5,), ("1",), (None,)])
def test_a_key_that_is_not_of_64_bit_integers_is_refused(key: tuple[Any, ...]) -> None:
    for function in (check_key, hashed_key, derived_seed):
        with pytest.raises(ValueError, match="seed: expected whole numbers"):
            function(*key)
