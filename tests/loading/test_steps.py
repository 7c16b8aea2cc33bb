"""Steps give every rank its part, and each position once."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from helpers.orders import epochs
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenstore.loading.sampling import (
    Steps,
)

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
