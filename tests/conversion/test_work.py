"""The work of many workers: results in order, suspects alone, and no sample bad that is not deadly."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenstore.conversion import RayExecutor
from tokenstore.conversion.ranges import SampleRange
from tokenstore.conversion.work import NODE_SECONDS, Piece, Work
from tokenstore.errors import ArgumentError, WorkerError


class Ranges:
    """A job of ranges, of which a sample that workers die of is bad."""

    def halves(self, item: SampleRange) -> Sequence[SampleRange]:
        return item.halves() if len(item) > 1 else ()

    def lost(self, item: SampleRange, error: Exception) -> tuple[SampleRange, bool]:
        return item, True


class Machines:
    """Machines that may be gone, and a clock that goes on while somebody waits."""

    def __init__(self, *names: str) -> None:
        self.names = set(names)
        self.time = 0.0
        self.ends: dict[str, float] = {}
        """The time at which a machine is seen to be gone."""

    def alive(self) -> set[str]:
        return {name for name in self.names if self.ends.get(name, np.inf) > self.time}

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds


def work_of(ranges: Iterable[SampleRange], machines: Machines | None = None) -> Work[Any, Any]:
    machines = machines or Machines("a")
    return Work(Ranges(), iter(ranges), machines, machines)  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    deadly=st.sets(st.integers(0, 300), max_size=3),
    workers=st.integers(1, 4),
    seed=st.integers(0, 2**16),
)
def test_whoever_dies_results_are_in_order_and_only_deadly_samples_are_bad(
    sizes: list[int], deadly: set[int], workers: int, seed: int
) -> None:
    rng = random.Random(seed)
    stops = np.cumsum(sizes).tolist()
    ranges = [SampleRange("a", stop - size, stop) for size, stop in zip(sizes, stops, strict=True)]
    machines = Machines(*map(str, range(100)))
    work, most = work_of(ranges, machines), 2 * workers
    at_work: list[list[Piece[Any, Any]]] = [[] for _ in range(workers)]
    results: list[tuple[SampleRange, bool]] = []
    accidents, ends = 4, 40
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
        node = rng.choice(sorted(machines.alive()))
        kills = any(piece.item.start <= position < piece.item.stop for position in deadly)
        accident = accidents > 0 and not piece.is_suspect and rng.random() < 0.1
        if ends and rng.random() < 0.2:  # the machine ends, and with it the worker, of whatever it was doing
            ends -= 1
            machines.ends[node] = machines.time + rng.choice([0, 0, 5])
            for lost in busy[::-1]:
                work.died(lost, WorkerError("gone"), node)
            busy.clear()
        elif kills or accident:  # all that the worker had is lost with it
            accidents -= accident
            for lost in busy[::-1]:
                work.died(lost, WorkerError("killed"), node)
            busy.clear()
        else:
            busy.remove(piece)
            if accidents and rng.random() < 0.05:
                accidents -= 1
                work.again(piece)
            else:
                work.done(piece, (piece.item, False))
        results += work.finished()
    assert [item.start for item, _ in results] == [0, *(item.stop for item, _ in results[:-1])]
    assert results[-1][0].stop == stops[-1]
    bad = {position for item, is_bad in results if is_bad for position in range(item.start, item.stop)}
    assert bad == {position for position in deadly if position < stops[-1]}


def test_a_sample_that_was_on_three_machines_as_they_were_taken_away_is_good() -> None:
    machines = Machines("a", "b", "c")
    work = work_of([SampleRange("a", 0, 1)], machines)
    for number, node in enumerate("abc"):  # its processes are ended 20 seconds before the machine is gone
        machines.ends[node] = 20.0 + number
        work.died(some(work.take(is_idle=True, most=1)), WorkerError("killed"), node)
        assert list(work.finished()) == []
    piece = some(work.take(is_idle=True, most=1))
    work.done(piece, (piece.item, False))
    assert list(work.finished()) == [(SampleRange("a", 0, 1), False)]


def test_a_sample_that_three_workers_died_of_on_machines_that_stay_is_bad() -> None:
    machines = Machines("a", "b")
    work = work_of([SampleRange("a", 0, 1)], machines)
    for node in "aba":
        work.died(some(work.take(is_idle=True, most=1)), WorkerError("killed"), node)
    assert list(work.finished()) == [(SampleRange("a", 0, 1), True)]
    assert machines.time >= NODE_SECONDS


def test_a_sample_that_ends_every_machine_is_bad_at_last() -> None:
    machines = Machines(*map(str, range(200)))
    machines.ends = dict.fromkeys(machines.names, 0.0)
    work = work_of([SampleRange("a", 0, 8)], machines)
    results: list[tuple[SampleRange, bool]] = []
    for node in map(str, range(200)):
        piece = work.take(is_idle=True, most=1)
        if piece is None:
            break
        if piece.item.start <= 5 < piece.item.stop:
            work.died(piece, WorkerError("gone"), node)
        else:
            work.done(piece, (piece.item, False))
        results += work.finished()
    assert [item for item, is_bad in results if is_bad] == [SampleRange("a", 5, 6)]
    assert results[-1][0].stop == 8


def some(piece: Piece[Any, Any] | None) -> Piece[Any, Any]:
    assert piece is not None
    return piece


def test_no_more_ranges_are_begun_than_may_be_ahead() -> None:
    work = work_of(SampleRange("a", number, number + 1) for number in range(10))
    pieces = [piece for _ in range(5) if (piece := work.take(is_idle=True, most=3)) is not None]
    assert len(pieces) == 3
    work.done(pieces[1], 1)
    assert list(work.finished()) == []
    assert work.take(is_idle=True, most=3) is None
    work.done(pieces[0], 0)
    assert list(work.finished()) == [0, 1]
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
