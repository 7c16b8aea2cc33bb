"""Reading by anything that selects samples: an index, a slice, a list, an array, or nothing for all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.stores import random_codes, write_store

import tokenstore
from tokenstore import TokenDataset

SAMPLES = 23
CODES = random_codes(SAMPLES, (2, 3), 300)
LABELS = np.arange(SAMPLES, dtype=np.int32) % 5

SELECTIONS: list[Any] = [
    0,
    -1,
    np.int64(7),
    np.array(7),
    slice(None),
    slice(3, 17, 4),
    slice(None, None, -2),
    slice(5, 5),
    [4, -2, 4],
    [],
    np.array([1, 22], np.uint8),
    None,
]


@pytest.fixture(scope="module", params=["bitpack", "zstd", "context"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("selections") / "store"
    write_store(path, {"train": (CODES, LABELS)}, codec=request.param, chunk_samples=4, shard_samples=8)
    return path


@pytest.mark.parametrize("selection", SELECTIONS, ids=repr)
def test_every_reader_selects_as_numpy_does(store: Path, selection: Any) -> None:
    split = tokenstore.open(store)["train"]
    chosen = np.array([5, 2, 9, 21, 0, 3, 7, 8, 20, 1, 4, 6, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 22])
    subset = TokenDataset(store, indices=chosen).rows
    joined = tokenstore.concat([TokenDataset(store), TokenDataset(store)]).rows
    at = slice(None) if selection is None else selection
    at = np.array([], np.int64) if isinstance(at, list) and not at else at
    for name, values in (("tokens", CODES), ("labels", LABELS)):
        twice = np.concatenate([values, values])
        readers = ((split, values), (subset, values[chosen]), (joined, twice))
        for rows, expected in readers:
            found = rows.read(name, selection)
            np.testing.assert_array_equal(found, expected[at])
            assert np.shape(found) == np.shape(expected[at])
        np.testing.assert_array_equal(split.array(name).read(selection), values[at])


def test_all_samples_are_the_default(store: Path) -> None:
    split = tokenstore.open(store)["train"]
    np.testing.assert_array_equal(split.read("tokens"), CODES)
    np.testing.assert_array_equal(split.array("labels").read(), LABELS)


def test_a_dataset_and_a_split_take_a_list_like_a_slice(store: Path) -> None:
    dataset = TokenDataset(store)
    for listed in ([3, -1], np.array([3, 22])):
        tokens, labels = dataset[listed]
        np.testing.assert_array_equal(tokens.numpy(), CODES[[3, 22]])
        assert labels.tolist() == LABELS[[3, 22]].tolist()
        np.testing.assert_array_equal(tokenstore.open(store)["train"][listed], CODES[[3, 22]])
    with pytest.raises(IndexError, match="selects none"):
        dataset[[]]


@pytest.mark.parametrize("wrong", [SAMPLES, -SAMPLES - 1, 1.0, "1", [1.5], [True], True, [[1]], Ellipsis])
def test_what_selects_nothing_is_an_index_error(store: Path, wrong: Any) -> None:
    with pytest.raises(IndexError):
        tokenstore.open(store)["train"].read("tokens", wrong)


def test_a_store_says_which_splits_it_has(store: Path) -> None:
    opened = tokenstore.open(store)
    assert "train" in opened
    assert "test" not in opened
    assert 0 not in opened
    assert list(opened) == ["train"]
