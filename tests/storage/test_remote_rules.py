"""Remote storage without a network: slices of ranges, delays between attempts, what is refused."""

from __future__ import annotations

import random
import re

import pytest
from helpers.waiting import BRIEF
from hypothesis import given
from hypothesis import strategies as st

from tokenstore.errors import StoreError
from tokenstore.storage import Retries
from tokenstore.storage.remote import RemoteFolder


@given(
    data=st.binary(max_size=200),
    ranges=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200)), max_size=20),
)
def test_ranges_are_slices(data: bytes, ranges: list[tuple[int, int]]) -> None:
    remote = MEMORY
    remote.write("file", data)
    inside = [(min(pair), max(pair)) for pair in ranges if max(pair) <= len(data)]
    found = remote.read_ranges([("file", start, stop) for start, stop in inside])
    assert found == [data[start:stop] for start, stop in inside]
    assert remote.read("file") == data
    remote.remove("file")


MEMORY = RemoteFolder("memory://ranges-are-slices/store")


@given(
    attempts=st.integers(1, 10_000),
    left=st.floats(0, 1e4),
    first=st.floats(1e-3, 10),
    longest=st.floats(1e-3, 100),
)
def test_a_delay_doubles_and_is_bounded(attempts: int, left: float, first: float, longest: float) -> None:
    retries = Retries(first_delay=first, longest_delay=longest)
    delay = retries.delay(attempts, left, random.Random(0))
    assert 0 <= delay <= min(longest, left / 2)
    if attempts < 100:
        assert delay <= first * 2 ** (attempts - 1)


def test_delays_differ() -> None:
    jitter = random.Random(0)
    assert len({Retries().delay(5, 30, jitter) for _ in range(10)}) == 10


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["deadline", "timeout", "first_delay", "longest_delay"])
def test_times_that_cannot_be_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected a positive number of seconds, found"):
        Retries(**{name: value})


@pytest.mark.parametrize("url", ["nothing://x/y", "gopher::s3://bucket/x"])
def test_a_kind_of_storage_that_is_not_known_is_refused_at_once(url: str) -> None:
    with pytest.raises(StoreError, match=re.escape(url)):
        RemoteFolder(url, retries=BRIEF).read("a")
