"""The row numbers of subsets: lists and bits give the same, and the bits of many rows take few bytes."""

from __future__ import annotations

import contextlib
import tracemalloc
from collections.abc import Iterator
from hashlib import sha256

import numpy as np
import pytest
from helpers.growth import start_tracing, stop_tracing
from helpers.stores import random_codes, write_store
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenstore import TokenDataset
from tokenstore.loading import dataset as dataset_module
from tokenstore.loading.sampling import Permutation
from tokenstore.reading import Subset, row_numbers
from tokenstore.reading.row_numbers import RowBits, RowList, row_bits, row_list, rows_where

SAMPLES = 500
LABELS = (np.arange(SAMPLES) * 7 % 5).astype(np.int32)


@contextlib.contextmanager
def subsets_in_bits() -> Iterator[None]:
    """Let every ascending subset be bits, looked at in small blocks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_numbers, "MOST_LISTED", 0)
        patch.setattr(row_numbers, "BLOCK", 128)
        yield


@pytest.fixture
def in_bits() -> Iterator[None]:
    with subsets_in_bits():
        yield


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> TokenDataset:
    path = tmp_path_factory.mktemp("rows") / "a"
    write_store(
        path,
        {"train": (random_codes(SAMPLES, (2,), 391), LABELS)},
        chunk_samples=8,
        shard_samples=64,
        class_names=tuple("abcde"),
    )
    return TokenDataset(path)


@settings(deadline=None, max_examples=40)
@given(rows=st.integers(1, 400), data=st.data())
def test_bits_are_the_ascending_list_of_their_members(rows: int, data: st.DataObject) -> None:
    members = np.array(sorted(data.draw(st.sets(st.integers(0, rows - 1)))), np.int64)
    is_member = np.zeros(rows, np.bool_)
    is_member[members] = True
    plain = RowList(members)
    with subsets_in_bits():
        bits = row_bits(rows, lambda positions: is_member[positions])
        assert len(bits) == len(plain) == len(members)
        assert bits.ascends
        assert plain.ascends
        asked = np.array(data.draw(st.lists(st.integers(0, rows))), np.int64)
        for numbers in (bits, plain):
            np.testing.assert_array_equal(numbers.listed(), members)
            np.testing.assert_array_equal(np.concatenate([*numbers.blocks(), []]), members)
            np.testing.assert_array_equal(numbers.before(asked), np.searchsorted(members, asked))
            if len(members):
                positions = np.array(data.draw(st.lists(st.integers(0, len(members) - 1))), np.int64)
                np.testing.assert_array_equal(numbers.at(positions), members[positions])
        everything = np.arange(rows)
        np.testing.assert_array_equal(bits.has(everything), is_member)
        np.testing.assert_array_equal(bits.has_not(everything), ~is_member)
        chosen = np.array(
            data.draw(st.lists(st.booleans(), min_size=len(members), max_size=len(members))), bool
        )
        for numbers in (bits, plain):
            subset = numbers.where(lambda positions: chosen[positions], rows)
            np.testing.assert_array_equal(subset.listed(), members[chosen])


@pytest.mark.parametrize("bits", [True, False])
@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.5, 0.9])
def test_a_split_has_the_members_and_order_of_the_sorted_permutation(
    dataset: TokenDataset, request: pytest.FixtureRequest, bits: bool, fraction: float
) -> None:
    if bits:
        request.getfixturevalue("in_bits")
    view, expected = dataset, np.arange(SAMPLES)
    for seed in (0, 3):
        drawn = Permutation(len(expected), seed, dataset_module._SPLIT_KEY)(np.arange(len(expected)))
        count = round(fraction * len(expected))
        rest, held_out = view.split(fraction, seed)
        for part, positions in ((rest, np.sort(drawn[count:])), (held_out, np.sort(drawn[:count]))):
            assert part.indices is not None
            np.testing.assert_array_equal(part.indices, expected[positions])
        view, expected = rest, expected[np.sort(drawn[count:])]


@pytest.mark.usefixtures("in_bits")
def test_a_view_in_bits_is_the_view_of_the_listed_rows(dataset: TokenDataset) -> None:
    views = [
        dataset.split(0.3)[0],
        dataset.split(0.3, 1)[1].filter(labels=["b", "d"]),
        dataset.filter(labels=["a"]).split(0.5)[0],
    ]
    for view in views:
        assert isinstance(view.rows.row_numbers, RowBits)
        listed = dataset.select(view.indices)
        plain = Subset(dataset.rows, [])
        plain._numbers = RowList(listed.indices)
        assert len(view) == len(listed)
        np.testing.assert_array_equal(view.rows.starts, plain.starts)
        np.testing.assert_array_equal(view.rows.labels, LABELS[listed.indices])
        digest = sha256(listed.indices.astype("<i8").tobytes()).hexdigest()[:16]
        assert view.fingerprint == listed.fingerprint == f"{dataset.fingerprint}[{digest}]"
        rows = np.random.default_rng(0).integers(0, len(view), 300)
        np.testing.assert_array_equal(view.rows.read("tokens", rows), listed.rows.read("tokens", rows))
        assert view.samples_table().equals(listed.samples_table())
        batches = list(view.samples_batches())
        assert sum(map(len, batches)) == len(view)


def test_rows_out_of_order_keep_it_when_they_are_chosen_from(dataset: TokenDataset) -> None:
    order = np.random.default_rng(0).permutation(SAMPLES)[:300]
    chosen = dataset.select(order).filter(labels=["a", "e"])
    np.testing.assert_array_equal(chosen.indices, order[np.isin(LABELS[order], [0, 4])])
    twice = dataset.select([7, 7, 9]).filter(labels=["e"])
    assert twice.indices is not None
    assert twice.indices.tolist() == [7, 7]


@pytest.mark.parametrize("share", [0.01, 0.6])
def test_subsets_of_many_rows_take_few_bytes(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    monkeypatch.setattr(row_numbers, "MOST_LISTED", 10_000)
    rows = 2**20
    drawn = Permutation(rows, 1).inverse
    drawn(np.arange(2))
    start_tracing()
    try:
        numbers = rows_where(rows, lambda positions: drawn(positions) < share * rows)
        at_end, peak = tracemalloc.get_traced_memory()
    finally:
        stop_tracing()
    assert len(numbers) == int(np.ceil(share * rows))
    assert at_end <= rows / 4
    assert peak <= rows / 4 + 64 * row_numbers.BLOCK
    assert isinstance(numbers, RowBits) == (share > 1 / 32)


def test_short_row_numbers_are_fewer_than_their_dtype_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_numbers, "MOST_LISTED", 0)
    for rows in (2**32 - 1, 2**32, 2**33):
        listed = row_list(2, rows, iter([np.array([5]), np.array([rows - 1])]))
        assert listed.before(np.array([0, 6, rows])).tolist() == [0, 1, 2]


def test_a_long_list_is_taken_in_blocks(dataset: TokenDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_numbers, "MOST_LISTED", 10_000)
    rows = 2**20
    chosen = np.random.default_rng(0).integers(-SAMPLES, SAMPLES, rows)
    dataset.select(chosen[:10])
    start_tracing()
    try:
        view = dataset.select(chosen)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        stop_tracing()
    assert peak <= 4 * rows + 64 * row_numbers.BLOCK
    np.testing.assert_array_equal(view.indices, chosen % SAMPLES)
    chosen[-1] = SAMPLES
    with pytest.raises(IndexError, match="index 500 is out of range for 500 samples"):
        dataset.select(chosen)


@pytest.mark.parametrize("indices", [3, [[0, 1]], [True, False], 1.5, np.zeros((2, 2), np.int64)])
def test_what_is_no_list_of_row_numbers_is_refused(dataset: TokenDataset, indices: object) -> None:
    with pytest.raises(IndexError, match="expected a list of integers"):
        Subset(dataset.rows, indices)
