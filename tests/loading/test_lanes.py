"""A lane shuffle is an order like any other, in which ranks read blocks of their own."""

from __future__ import annotations

import math
import tracemalloc
from functools import partial
from typing import Any

import numpy as np
import pytest
from helpers.growth import start_tracing, stop_tracing
from helpers.orders import plain_key, plain_network, plain_permutation, starts_of, whole
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenstore.loading.sampling import (
    BlockShuffle,
    EqualRuns,
    LaneShuffle,
    Mixture,
    Order,
    Steps,
    bounded_starts,
    lanes,
    shuffle_quality,
)

EQUAL = st.builds(EqualRuns, st.integers(0, 700), st.integers(1, 90), st.integers(1, 40))
BLOCKS = EQUAL | st.lists(st.integers(1, 20), min_size=1, max_size=30).map(starts_of)
JOINED = st.lists(st.integers(1, 90), min_size=1, max_size=30).map(starts_of)
WINDOWS = st.integers(1, 5) | st.integers(1, 800)
KEYS = st.integers(0, 2**64 - 1)


def thorough(*cases: Any) -> list[Any]:
    """Return cases that repeat quicker ones."""
    values = [case if isinstance(case, tuple) else (case,) for case in cases]
    return [pytest.param(*value, marks=pytest.mark.thorough) for value in values]


def plain_blocks(starts: Any, seed: int, epoch: int) -> list[tuple[int, int]]:
    """Return the blocks as (first row, stop) in their order in an epoch."""
    if not isinstance(starts, EqualRuns):
        count = len(starts) - 1
        permuted = [plain_permutation(count, (seed, epoch), block) for block in range(count)]
        return [(int(starts[block]), int(starts[block + 1])) for block in permuted]
    runs = list(zip(starts.starts[:-1].tolist(), starts.starts[1:].tolist(), strict=True))
    full = [run for run in runs if run[1] - run[0] == min(starts.run, starts.shard)]
    whole_shards = starts.samples // starts.shard * starts.shard
    tails = [run for run in runs if run not in full and run[1] <= whole_shards]
    moved = {}
    for kind, key in ((full, (seed, epoch)), (tails, (seed, epoch, 0x7461696C))):
        for number, run in enumerate(kind):
            moved[run] = kind[plain_permutation(len(kind), key, number)]
    return [moved.get(run, run) for run in runs]


def plain_rows(
    starts: Any, order: LaneShuffle, window: int, seed: int, epoch: int, joined: int = 1
) -> list[int]:
    """Return the rows of an epoch, lane by lane and window by window."""
    runs = joined * len(starts[1:]) if joined > 1 else 0
    places = max(1, math.ceil(len(order) * max(window, order.lanes) / max(1, runs)) // order.lanes)
    blocks = plain_blocks(starts, seed, epoch)
    sequence = [(row, slot) for slot, block in enumerate(blocks) for row in range(*block)]
    by_lane: list[list[int]] = [[] for _ in range(order.lanes)]
    remainders = [2**power for power in range(1, 10)]
    spread = sorted(range(order.lanes), key=lambda lane: [*(lane % by for by in remainders), lane])
    for place, lane in enumerate(spread):
        before, after = (at * max(window, order.lanes) // order.lanes for at in (place, place + 1))
        slots = after - before
        mine = [sequence.pop(0) for _ in range(lane, len(order), order.lanes)]
        numbers = [place // places if joined > 1 else slot // slots for place, (_, slot) in enumerate(mine)]
        for number in sorted(set(numbers)):
            rows = [row for (row, _), own in zip(mine, numbers, strict=True) if own == number]
            key = plain_key(seed, epoch, 0x6C616E65, lane, number)
            rounds = 8 if len(rows) >= 32 else 24
            by_lane[lane] += [rows[plain_network(len(rows), key, rounds, at)] for at in range(len(rows))]
        if place % 2:
            by_lane[lane].reverse()
    return [by_lane[p % order.lanes][p // order.lanes] for p in range(len(order))]


@settings(deadline=None, max_examples=8)
@given(BLOCKS, WINDOWS, KEYS, st.integers(0, 1000))
def test_the_compiled_lanes_are_the_plain_ones(starts: Any, window: int, seed: int, epoch: int) -> None:
    order = LaneShuffle(starts, window, seed, epoch)
    blocks = len(starts) if isinstance(starts, EqualRuns) else len(starts) - 1
    rows = whole(order).tolist()
    assert rows == plain_rows(starts, order, min(window, max(1, blocks)), seed, epoch)
    assert sorted(rows) == list(range(len(order)))


@settings(deadline=None, max_examples=8)
@given(JOINED, st.integers(2, 30), WINDOWS, KEYS)
def test_lanes_of_joined_runs_are_the_plain_ones(starts: Any, joined: int, window: int, seed: int) -> None:
    order = LaneShuffle(starts, window, seed, 2, joined)
    rows = whole(order).tolist()
    assert rows == plain_rows(starts, order, min(window, joined * (len(starts) - 1)), seed, 2, joined)
    assert sorted(rows) == list(range(len(order)))


@settings(deadline=None, max_examples=12)
@given(JOINED, st.integers(2, 30), WINDOWS, KEYS, st.data())
def test_of_joined_runs_the_present_windows_are_fetched(
    starts: Any, joined: int, window: int, seed: int, data: st.DataObject
) -> None:
    order = LaneShuffle(starts, window, seed, 1, joined)
    positions = np.array(data.draw(st.lists(st.integers(0, len(order) - 1), min_size=1, max_size=5)))
    fetched = order.fetched_rows(positions).tolist()
    assert set(order(positions).tolist()) <= set(fetched)
    assert len(set(fetched)) == len(fetched)
    of_their_lanes = np.flatnonzero(np.isin(np.arange(len(order)) % order.lanes, positions % order.lanes))
    assert set(fetched) <= set(order(of_their_lanes).tolist())
    if len(positions) == 1:
        assert len(fetched) <= max(1, order.window_samples // order.lanes)


def test_equal_runs_are_not_joined() -> None:
    with pytest.raises(ValueError, match="joined: expected a whole number in"):
        LaneShuffle(EqualRuns(100, 10, 5), 3, 0, 0, joined=2)


@settings(deadline=None, max_examples=30)
@given(EQUAL, WINDOWS, KEYS)
def test_a_table_of_runs_changes_nothing(runs: EqualRuns, window: int, seed: int) -> None:
    expected = whole(LaneShuffle(runs, window, seed, 3)).tolist()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lanes, "_MOST_IN_MEMORY", -1)
        assert whole(LaneShuffle(runs, window, seed, 3)).tolist() == expected


def test_the_order_is_the_one_of_every_version_and_platform() -> None:
    order = LaneShuffle(EqualRuns(10**9, 23_872, 128), 500, 7, 3)
    assert order.lanes == 384
    positions = np.array([0, 1, 2, 383, 384, 5 * 10**8, 10**9 - 1])
    first, last = [2011578, 311672593, 89116622, 708408316, 2011553], [301279151, 687217108]
    assert order(positions).tolist() == first + last
    rows = [10, 8, 4, 11, 0, 5, 9, 2, 7, 3, 1, 6]
    assert whole(LaneShuffle(np.array([0, 3, 8, 9, 12]), 2, 7, 3)).tolist() == rows


@settings(deadline=None, max_examples=12)
@given(BLOCKS, WINDOWS, KEYS, st.data())
def test_what_is_fetched_is_whole_blocks_and_has_the_positions(
    starts: Any, window: int, seed: int, data: st.DataObject
) -> None:
    order = LaneShuffle(starts, window, seed, 1)
    positions = data.draw(st.lists(st.integers(0, max(0, len(order) - 1)), max_size=5 if len(order) else 0))
    fetched = order.fetched_rows(np.array(positions, np.int64))
    edges = starts.starts if isinstance(starts, EqualRuns) else starts
    blocks = np.unique(np.searchsorted(edges, fetched, side="right")) - 1
    assert sorted(fetched.tolist()) == [row for k in blocks for row in range(edges[k], edges[k + 1])]
    assert set(order(np.array(positions, np.int64)).tolist()) <= set(fetched.tolist())


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 6, 8, 12, 24, 48, 64, 96, 128, 5, 7, 40, 100, 256])
@pytest.mark.parametrize("consumed", [37, pytest.param(0, marks=pytest.mark.thorough)])
def test_ranks_take_equal_parts_of_every_step_and_lanes_of_their_own(world_size: int, consumed: int) -> None:
    samples, batch_size = 30_011, 24
    order = LaneShuffle(EqualRuns(samples, 100, 10), 500, 1, 0)
    assert order.lanes == 384
    steps = Steps(
        samples, batch_size, world_size, consumed=consumed, lanes=order.lanes, lane_keys=order.lane_keys
    )
    plain = Steps(samples, batch_size, world_size, consumed=consumed)
    by_rank: list[set[int]] = [set() for _ in range(world_size)]
    for step in range(len(steps)):
        parts = [steps.positions(step, rank) for rank in range(world_size)]
        start, stop = plain.span(step, 0)[0], plain.span(step, world_size - 1)[1]
        assert sorted(np.concatenate(parts).tolist()) == list(range(start, stop))
        sizes = [len(part) for part in parts]
        assert max(sizes) - min(sizes) <= 1
        assert min(sizes) >= 1
        assert sizes == [batch_size] * world_size or step >= len(steps) - 2
        assert all((np.diff(part) > 0).all() for part in parts)
        for mine, part in zip(by_rank, parts, strict=True):
            mine.update((part % 384).tolist())
    sharing = world_size // math.gcd(world_size, 384)
    assert all(len(mine) <= -(-384 * sharing // world_size) for mine in by_rank)
    if sharing == 1:
        assert sum(map(len, by_rank)) == 384


def test_there_is_no_rank_or_step_after_the_last() -> None:
    order = LaneShuffle(EqualRuns(100, 100, 1), 100, 1, 0)
    steps = Steps(100, 2, 8, lanes=order.lanes, lane_keys=order.lane_keys)
    for step, rank in ((0, 8), (0, -1), (7, 0), (-1, 0)):
        with pytest.raises(IndexError, match="counted from 0, found"):
            steps.positions(step, rank)
    with pytest.raises(ValueError, match="lanes: expected a whole number of at least 1, found 0"):
        Steps(100, 2, lanes=0)


def fetched_by_all(order: Order, starts: Any, world_size: int, batch_size: int) -> float:
    """Return how many ranks fetch a block, on average, if each of them fetches it once an epoch."""
    steps = Steps(len(order), batch_size, world_size, lanes=order.lanes, lane_keys=order.lane_keys)
    fetched = 0
    for rank in range(world_size):
        mine = np.concatenate([steps.positions(step, rank) for step in range(len(steps))])
        rows = order(mine % len(order))
        fetched += len(np.unique(np.searchsorted(starts, rows, side="right")))
    return fetched / (len(starts) - 1)


@pytest.mark.parametrize("world_size", [1, 4, 8, 64, 12, *thorough(3, 6, 24, 48, 96, 128)])
def test_each_block_is_fetched_once_by_all_ranks_together(world_size: int) -> None:
    """Take 20,000 runs of 16 samples, as many as ImageNet-1k has; today's order has 512 in a window."""
    runs = EqualRuns(320_000, 373 * 16, 16)
    assert fetched_by_all(LaneShuffle(runs, 500, 1, 0), runs.starts, world_size, 32) <= 1.05


@pytest.mark.parametrize("world_size", [1, 64, *thorough(8, 12)])
def test_each_run_of_a_view_whose_runs_are_joined_is_fetched_once(world_size: int) -> None:
    """Join 50 runs of 16 samples, as those of a view of 5 billion samples are; a window has 500 runs."""
    runs = np.arange(0, 320_001, 16)
    order = LaneShuffle(bounded_starts(runs, 400), 500, 1, 0, joined=50)
    assert fetched_by_all(order, runs, world_size, 32) <= 1.1
    for first in (0, 160_000):
        drawn = order(np.arange(first, first + 256))
        assert len(np.unique(drawn // 800)) >= 180, "of 400 blocks; those of the lanes' borders twice"


@pytest.mark.parametrize(("world_size", "most"), [(5, 1.1), *thorough((10, 1.2), (40, 1.4), (256, 2.05))])
def test_other_numbers_of_ranks_share_few_lanes(world_size: int, most: float) -> None:
    runs = EqualRuns(320_000, 373 * 16, 16)
    assert fetched_by_all(LaneShuffle(runs, 500, 1, 0), runs.starts, world_size, 256) <= most


@pytest.mark.parametrize("world_size", [6, *thorough(1, 8)])
def test_ranks_share_few_lanes_of_a_mixture(world_size: int) -> None:
    """Take two sources in a proportion that no number of ranks divides."""
    runs = [EqualRuns(size, 373 * 16, 16) for size in (40_003, 60_011)]
    order = Mixture([partial(LaneShuffle, runs[k], 500, k) for k in range(2)], [40_003, 60_011])
    assert order.samples_in_memory(1000) >= 1.5 * 500 * 16
    starts = np.append(runs[0].starts[:-1], runs[1].starts + 40_003)
    steps = Steps(len(order), 256, world_size, lane_keys=order.lane_keys)
    plain = Steps(len(order), 256, world_size)
    runs_met = []
    for rank in range(world_size):
        mine = np.concatenate([steps.positions(step, rank) for step in range(len(steps))])
        expected = [np.diff(plain.span(step, rank))[0] for step in range(len(steps))]
        assert [len(steps.positions(step, rank)) for step in range(len(steps))] == expected
        own = mine[:300] % len(order)
        assert set(order(own).tolist()) <= set(order.fetched_rows(own).tolist())
        runs_met += np.unique(np.searchsorted(starts, order(mine % len(order)), side="right")).tolist()
    assert len(runs_met) <= 1.06 * (len(starts) - 1)


@pytest.mark.parametrize(
    ("batch_size", "window"), [(64, 455), (256, 745), (256, 60), *thorough((256, 455), (1024, 745), (256, 5))]
)
def test_lanes_mix_as_well_as_a_block_shuffle(batch_size: int, window: int) -> None:
    runs = EqualRuns(1_280_000, 23_872, 64)
    labels = np.arange(1_280_000) // 1280
    figures = [
        np.mean(
            [shuffle_quality(make(epoch), runs.starts, batch_size, 20, labels).figure for epoch in range(4)]
        )
        for make in (
            lambda epoch: LaneShuffle(runs, window, 5, epoch),
            lambda epoch: BlockShuffle(runs.starts, window, 5, epoch),
        )
    ]
    assert figures[0] >= 0.99 * figures[1], "chance decides which classes stand in a few blocks"


@pytest.mark.parametrize("samples", [10**6, 10**9, 5 * 10**9])
def test_five_billion_samples_are_mixed_as_well_as_a_million_and_take_no_more_memory(samples: int) -> None:
    """Take LAION-5B's shards of 23,872 samples, in runs of 128: 39 million of them."""
    start_tracing()
    runs = EqualRuns(samples, 23_872, 128)
    order = LaneShuffle(runs, max(1, round(47_662 * len(runs) / samples)), 3, 9)
    drawn = order(np.arange(samples // 2, samples // 2 + 256))
    most = tracemalloc.get_traced_memory()[1]
    stop_tracing()
    shard, within = np.divmod(drawn, 23_872)
    assert len(np.unique(shard * 187 + within // 128)) == 256, "each from a run of its own"
    assert most < 2e6
    rest = order(np.arange(samples - 1000, samples))
    assert len(np.unique(rest)) == 1000


@pytest.mark.parametrize("arguments", [(-1, 5, 5), (5, 0, 5), (5, 5, 0), (2**63, 5, 5), (5.0, 5, 5)])
def test_runs_that_cannot_be_are_refused(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match="expected a whole number"):
        EqualRuns(*arguments)
