"""Samples drawn in a stream are those that numpy's permutation begins with."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from helpers.growth import start_tracing, stop_tracing

from tokenstore.writing import drawing


@pytest.mark.parametrize(
    ("size", "count"),
    [(10, 3), (100, 20), (1000, 7), (1000, 600), (50_000, 900), (65_536, 10), (65_537, 10), (131_071, 0)],
)
@pytest.mark.parametrize("listed", [0, 2**22])
def test_the_first_of_a_permutation_are_drawn(
    size: int, count: int, listed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "LISTED", listed)
    monkeypatch.setattr(drawing, "_RAW_AT_ONCE", 256)
    for seed in range(2):
        expected = np.sort(np.random.default_rng((seed, 1)).permutation(size)[:count])
        np.testing.assert_array_equal(drawing.drawn(size, count, (seed, 1)), expected)


def test_memory_does_not_grow_with_the_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "LISTED", 0)
    monkeypatch.setattr(drawing, "_RAW_AT_ONCE", 2**10)
    drawing.drawn(10_000, 50, (0,))
    peaks = []
    for size in (100_000, 400_000):
        start_tracing()
        drawing.drawn(size, 50, (0,))
        peaks.append(tracemalloc.get_traced_memory()[1])
        stop_tracing()
    assert peaks[1] < 1.2 * peaks[0]
