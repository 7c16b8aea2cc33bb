"""The work of many workers: segments in order, suspects alone, and no sample bad that is not deadly."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenstore.conversion import RayExecutor
from tokenstore.conversion.executors import DEADLY
from tokenstore.conversion.ranges import SampleRange, Segment
from tokenstore.conversion.work import Piece, Work
from tokenstore.errors import ArgumentError, WorkerError


class _Plan:
    """The part of a plan that bad samples need."""

    class encoder:  # noqa: N801
        grid, dtype, columns = (1,), np.dtype(np.uint8), {}


def segment_of(samples: SampleRange) -> Segment:
    count = len(samples)
    positions = np.arange(samples.start, samples.stop)
    return Segment(samples, np.zeros((count, 1), np.uint8), {}, positions, np.zeros((count, 3), np.int64))


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    deadly=st.sets(st.integers(0, 300), max_size=3),
    workers=st.integers(1, 4),
    seed=st.integers(0, 2**16),
)
def test_whoever_dies_segments_are_in_order_and_only_deadly_samples_are_bad(
    sizes: list[int], deadly: set[int], workers: int, seed: int
) -> None:
    rng = random.Random(seed)
    stops = np.cumsum(sizes).tolist()
    ranges = [SampleRange("a", stop - size, stop) for size, stop in zip(sizes, stops, strict=True)]
    plan: Any = _Plan()
    work, most = Work(plan, iter(ranges)), 2 * workers
    at_work: list[list[Piece]] = [[] for _ in range(workers)]
    segments: list[Segment] = []
    accidents = 4
    while not work.is_done:
        for pieces in at_work:
            while len(pieces) < 2 and not any(piece.is_suspect for piece in pieces):
                piece = work.take(is_idle=not pieces, most=most)
                if piece is None:
                    break
                assert not (piece.is_suspect and pieces), "a suspect shares its worker"
                pieces.append(piece)
        busy = rng.choice([pieces for pieces in at_work if pieces])
        piece = rng.choice(busy)
        kills = any(piece.samples.start <= position < piece.samples.stop for position in deadly)
        accident = accidents > 0 and not piece.is_suspect and rng.random() < 0.1
        if kills or accident:  # all that the worker had is lost with it
            accidents -= accident
            for lost in busy[::-1]:
                work.died(lost, WorkerError("killed"))
            busy.clear()
        else:
            busy.remove(piece)
            if accidents and rng.random() < 0.05:
                accidents -= 1
                work.again(piece)
            else:
                work.done(piece, segment_of(piece.samples))
        segments += work.finished()
    assert [segment.samples.start for segment in segments] == [0, *(s.samples.stop for s in segments[:-1])]
    assert segments[-1].samples.stop == stops[-1]
    bad = {each.position for segment in segments for each in segment.bad}
    assert bad == {position for position in deadly if position < stops[-1]}
    assert {each.reason for segment in segments for each in segment.bad} <= {DEADLY}


def test_no_more_ranges_are_begun_than_may_be_ahead() -> None:
    plan: Any = _Plan()
    work = Work(plan, (SampleRange("a", number, number + 1) for number in range(10)))
    pieces = [piece for _ in range(5) if (piece := work.take(is_idle=True, most=3)) is not None]
    assert len(pieces) == 3
    work.done(pieces[1], segment_of(pieces[1].samples))
    assert list(work.finished()) == []
    assert work.take(is_idle=True, most=3) is None
    work.done(pieces[0], segment_of(pieces[0].samples))
    assert [segment.samples.start for segment in work.finished()] == [0, 1]
    assert work.take(is_idle=True, most=3) is not None


def test_numbers_that_no_actor_can_have_are_refused() -> None:
    for name, value in (
        ("actors", 0),
        ("cpus_per_actor", 0),
        ("range_samples", -1),
        ("gpus_per_actor", -0.5),
    ):
        with pytest.raises(ArgumentError, match=f"{name}: expected . or more, found {value}"):
            RayExecutor(**{name: value})  # type: ignore[arg-type]
    for value in (1.5, float("nan"), float("inf")):
        with pytest.raises(ArgumentError, match="gpus_per_actor: expected"):
            RayExecutor(gpus_per_actor=value)
    assert [RayExecutor(gpus_per_actor=value).gpus_per_actor for value in (0.25, 2.0)] == [0.25, 2.0]
