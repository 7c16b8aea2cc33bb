"""Remote storage without a network: slices of ranges, delays between attempts, what is refused."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import re

import pytest
from helpers.waiting import BRIEF
from hypothesis import given
from hypothesis import strategies as st

from tokenstore.errors import StoreError
from tokenstore.storage import Retries
from tokenstore.storage.redaction import Secrets
from tokenstore.storage.remote import RemoteFolder, retrying


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


def test_the_first_failed_attempt_is_said_with_the_time_that_is_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def not_at_all(_: retrying.Clock, seconds: float) -> None: ...

    monkeypatch.setattr(retrying.Clock, "sleep", not_at_all)
    monkeypatch.setattr(retrying, "_said", -math.inf, raising=False)
    failures = [ConnectionRefusedError(111, "refused\x1b[2J")] * 3

    async def attempt() -> str:
        if failures:
            raise failures.pop()
        return "done"

    def retried() -> str:
        return asyncio.run(
            retrying.retried(
                attempt, Retries(deadline=30), "s3://b/a", Secrets("s3://b/a", {}), random.Random(0)
            )
        )

    assert retried() == "done"
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warning.startswith("s3://b/a: attempt 1 failed: ")
    assert warning.endswith("and for up to 30 s")
    assert "\x1b" not in warning
    failures.append(ConnectionRefusedError())  # many requests that fail at one time are one line
    assert retried() == "done"
    assert [record.levelno for record in caplog.records].count(logging.WARNING) == 1
