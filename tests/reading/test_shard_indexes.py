"""The indexes of shards: all of them in one array, or those of the last shards alone."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.growth import peak_nbytes
from helpers.stores import random_codes, write_store

import tokenstore
from tokenstore.reading import ArrayReader, shard_indexes
from tokenstore.reading.local_shards import LocalShards
from tokenstore.reading.shard_indexes import AllIndexes, RecentIndexes, span

SHARD, SHARDS = 500, 24
CODES = random_codes(SHARD * SHARDS, (2, 2), 391)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tokenstore.TokenStore:
    """Write tokens in chunks of one sample, of which the indexes are the larger part."""
    path = tmp_path_factory.mktemp("indexes") / "store"
    splits = {"few": (CODES[: len(CODES) // 4],), "train": (CODES,)}
    write_store(path, splits, chunk_samples=1, shard_samples=SHARD)
    return tokenstore.open(path)


@pytest.fixture
def tokens(store: tokenstore.TokenStore) -> ArrayReader:
    reader: ArrayReader = store["train"].arrays["tokens"]
    return reader


def test_reading_in_turn_takes_no_memory_for_more_shards(
    store: tokenstore.TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_indexes, "_RECENT", 2)

    def read(split: str) -> None:
        files = store[split].arrays["tokens"].files
        source = LocalShards(files, lambda chunk, payload: None, in_turn=True)
        for start in range(0, files.chunks, 100):
            source.read_once(np.arange(start, start + 100))

    for split in ("few", "train"):
        read(split)  # what is read once, such as the metadata
    few, many = (peak_nbytes(lambda split=split: read(split)) for split in ("few", "train"))  # type: ignore[misc]
    assert many < 1.1 * few


def test_a_reader_in_turn_gives_the_same_codes(tokens: ArrayReader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_indexes, "_RECENT", 1)
    streamed = tokens.streamed(2)
    np.testing.assert_array_equal(streamed.read_range(0, len(CODES)), CODES)
    rows = np.random.default_rng(0).integers(0, len(CODES), 40)
    np.testing.assert_array_equal(streamed.read(rows), CODES[rows])


def test_all_indexes_take_four_bytes_a_chunk(tokens: ArrayReader) -> None:
    indexes = AllIndexes(tokens.files)
    assert indexes.get(1) is None
    ends = np.arange(1, SHARD + 1, dtype=np.uint64) * 9
    stops = indexes.put(1, np.stack([ends - 9, np.full(SHARD, 9, np.uint64)], axis=1))
    assert stops.dtype == np.uint32
    assert (span(stops, 0), span(stops, 3), span(stops, 3, 2)) == ((0, 9), (27, 36), (27, 45))
    assert indexes.missing({0, 1, 2}) == [0, 2]
    found = indexes.get(1)
    assert found is not None
    np.testing.assert_array_equal(found, ends)


def test_the_end_of_a_chunk_may_lie_beyond_four_gigabytes(
    tokens: ArrayReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = np.array([[0, 2**32], [2**32, 5]], np.uint64)
    sizes = np.full(SHARDS, 2**33, np.int64)
    monkeypatch.setitem(tokens.files.__dict__, "nbytes", sizes)
    monkeypatch.setattr(type(tokens.layout), "chunks_per_shard", 2)
    for indexes in (AllIndexes(tokens.files), RecentIndexes()):
        assert span(indexes.put(0, index), 1) == (2**32, 2**32 + 5)


def test_old_indexes_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_indexes, "_RECENT", 2)
    recent = RecentIndexes()
    for shard in range(4):
        recent.put(shard, np.array([[0, shard + 4]], np.uint64))
    assert [recent.get(shard) is not None for shard in range(4)] == [False, False, True, True]
