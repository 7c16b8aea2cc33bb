"""Functions of the user's own: whatever they raise is raised, and never taken for the end of an epoch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.stores import random_codes, write_store
from torch.utils.data import DataLoader

from tokenstore import TokenDataset, TokenLoader

SAMPLES = 24


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("callbacks") / "store"
    write_store(path, {"train": (random_codes(SAMPLES, (2, 3), 16), np.arange(SAMPLES, dtype=np.int32), {})})
    return path


class EndsInTheMiddle:
    """A function that draws from an iterator of its own, which is over after a few calls."""

    def __init__(self, error: type[Exception]) -> None:
        self._error = error
        self._calls = 0

    def __call__(self, *values: Any, **_: Any) -> Any:
        self._calls += 1
        if self._calls > 2:
            raise self._error
        return values if len(values) > 1 else values[0]


class EndsByBatch(EndsInTheMiddle):
    """The same, called once a batch."""

    def of_rows(self, _: Any, values: Any) -> Any:
        return self(values)


Loop = Callable[[TokenDataset, Any], Any]
LOOPS: dict[str, Loop] = {
    "batch_transform": lambda data, function: TokenLoader(data, 4, num_threads=0, batch_transform=function),
    "batch_transform, threads": lambda data, function: TokenLoader(
        data, 4, num_threads=2, batch_transform=function
    ),
    "collate_fn": lambda data, function: TokenLoader(data, 4, num_threads=0, collate_fn=function),
    "collate_fn, threads": lambda data, function: TokenLoader(data, 4, num_threads=1, collate_fn=function),
}
DATASETS: dict[str, Loop] = {
    "loader": lambda data, _: TokenLoader(data, 4, num_threads=0),
    "torch's loader": lambda data, _: DataLoader(data, 4),
    "dataset": lambda data, _: data,
}


@pytest.mark.parametrize("loop", LOOPS)
def test_a_function_of_batches_that_runs_out_does_not_end_the_epoch(store: Path, loop: str) -> None:
    batches = LOOPS[loop](TokenDataset(store), EndsInTheMiddle(StopIteration))
    with pytest.raises(RuntimeError, match=f"{loop.partition(',')[0]}: .*StopIteration"):
        list(batches)


@pytest.mark.parametrize("loop", DATASETS)
@pytest.mark.parametrize("name", ["transform", "target_transform"])
@pytest.mark.parametrize("kind", [EndsInTheMiddle, EndsByBatch])
def test_a_transform_that_runs_out_does_not_end_the_epoch(
    store: Path, loop: str, name: str, kind: type[EndsInTheMiddle]
) -> None:
    function = kind(StopIteration)
    with pytest.raises(RuntimeError, match=f"{name}: .*StopIteration"):
        list(DATASETS[loop](TokenDataset(store, **{name: function}), None))


@pytest.mark.parametrize("loop", DATASETS)
@pytest.mark.parametrize("name", ["transform", "target_transform"])
def test_an_index_error_of_a_transform_does_not_end_a_loop(store: Path, loop: str, name: str) -> None:
    with pytest.raises(IndexError):
        list(DATASETS[loop](TokenDataset(store, **{name: EndsInTheMiddle(IndexError)}), None))


def test_a_transform_of_batches_that_loses_samples_is_refused(store: Path) -> None:
    class Loses:
        def of_rows(self, _: Any, values: Any) -> Any:
            return values[1:]

    with pytest.raises(ValueError, match="expected a value for each of 4 samples, found 3"):
        next(iter(TokenLoader(TokenDataset(store, columns=["tokens"], transform=Loses()), 4)))
