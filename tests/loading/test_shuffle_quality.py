"""The quality of a shuffle is that of the batches it makes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from helpers.orders import starts_of
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenstore.loading.sampling import (
    BlockShuffle,
    Permutation,
    Sequential,
    shuffle_quality,
)


def test_a_full_shuffle_has_a_quality_of_one() -> None:
    labels = np.arange(50_000) // 500
    quality = shuffle_quality(Permutation(50_000, 1), np.arange(0, 50_001, 100), 256, labels=labels)
    assert quality.batches == 100
    assert quality.blocks == pytest.approx(quality.blocks_expected, rel=0.01)
    assert quality.classes == pytest.approx(quality.classes_expected, rel=0.01)
    assert 0.99 < quality.figure <= 1


def test_rows_sorted_by_class_and_not_shuffled_have_the_quality_they_deserve() -> None:
    labels = np.arange(50_000) // 500
    quality = shuffle_quality(Sequential(50_000), np.arange(0, 50_001, 100), 250, 200, labels)
    assert (quality.blocks, quality.classes) == (3, 1)
    assert quality.classes_expected == pytest.approx(100 * (1 - 0.99**250), rel=0.001)
    assert quality.figure == 1 / quality.classes_expected < 3 / quality.blocks_expected


def test_quality_grows_with_the_window() -> None:
    starts = np.arange(0, 50_001, 100)
    labels = np.arange(50_000) // 500
    found = [
        shuffle_quality(BlockShuffle(starts, window, 1, 0), starts, 256, labels=labels).figure
        for window in (1, 4, 16, 64, 500)
    ]
    assert found == sorted(found)
    assert found[0] < 0.02
    assert found[-1] > 0.98


@settings(deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.data())
def test_the_expectation_is_that_of_all_possible_batches(sizes: list[int], data: st.DataObject) -> None:
    rows = sum(sizes)
    batch_size = data.draw(st.integers(1, rows))
    labels = np.repeat(np.arange(len(sizes)) * 3, sizes)
    quality = shuffle_quality(Sequential(rows), starts_of(sizes), batch_size, labels=labels)
    distinct = [len(set(batch)) for batch in itertools.combinations(labels.tolist(), batch_size)]
    assert quality.blocks_expected == pytest.approx(np.mean(distinct))
    assert quality.classes_expected == pytest.approx(np.mean(distinct))


def test_a_batch_is_no_larger_than_the_epoch() -> None:
    quality = shuffle_quality(Sequential(10), np.array([0, 5, 10]), 1000)
    assert (quality.batch_size, quality.batches, quality.figure, quality.classes) == (10, 1, 1.0, None)


def test_a_quality_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        shuffle_quality(Sequential(0), np.array([0]), 5)
    with pytest.raises(ValueError, match=r"labels: expected shape \(10,\), found \(9,\)"):
        shuffle_quality(Sequential(10), np.array([0, 10]), 5, labels=np.zeros(9, np.int64))
    with pytest.raises(ValueError, match="batch_size"):
        shuffle_quality(Sequential(10), np.array([0, 10]), 0)
