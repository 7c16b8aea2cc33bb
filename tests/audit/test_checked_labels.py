"""Tests of labels that the checks of shards share with the check of the samples table."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from helpers.stores import Samples, random_codes, write_store

from tokenstore.audit import checked_labels
from tokenstore.audit.checked_labels import CheckedLabels, SplitLabels
from tokenstore.format import ArrayLayout
from tokenstore.reading import StoreFiles
from tokenstore.storage import open_storage

TABLE = "train/samples.parquet"
SHARDS = [f"train/labels/c/{number}" for number in range(3)]


@pytest.fixture
def layout(tmp_path: Path) -> ArrayLayout:
    """Return the layout of 40 labels in three shards."""
    labels = (np.arange(40) % 3).astype(np.int32)
    content = {"train": Samples(random_codes(40, (2, 2), 50), labels)}
    write_store(tmp_path / "s", content, 50, chunk_samples=4, shard_samples=16)
    return StoreFiles(open_storage(tmp_path / "s")).layout("train/labels")


def announced(*paths: str) -> CheckedLabels:
    labels = CheckedLabels({TABLE: "train"})
    for path in paths:
        labels.announce(path)
    return labels


def passing(labels: CheckedLabels, layout: ArrayLayout, *numbers: int) -> SplitLabels:
    """Let the checks of shards end that pass, and return the labels of the split."""
    of_split = labels.of_split("train", layout)
    assert of_split is not None
    for number in numbers:
        of_split.passed.add(number)
        labels.end(SHARDS[number])
    return of_split


def test_a_table_waits_for_the_shards_that_were_announced_before_it(layout: ArrayLayout) -> None:
    for last in range(3):
        labels, found = announced(*SHARDS, TABLE), list[object]()
        of_split = passing(labels, layout, *{0, 1, 2} - {last})
        waiting = threading.Thread(target=lambda to, of: to.append(of.for_table(TABLE)), args=(found, labels))
        waiting.start()
        waiting.join(0.05)
        assert waiting.is_alive()
        passing(labels, layout, last)
        waiting.join(60)
        assert found == [of_split.values]


@pytest.mark.parametrize("paths", [[TABLE, *SHARDS], [*SHARDS[:2], TABLE, SHARDS[2]], [*SHARDS]])
def test_no_table_waits_for_a_shard_behind_it(layout: ArrayLayout, paths: list[str]) -> None:
    labels = announced(*paths)
    passing(labels, layout, *range(paths.index(TABLE) if TABLE in paths else 0))
    assert labels.for_table(TABLE) is None


def test_a_shard_that_does_not_pass_ends_the_wait(layout: ArrayLayout) -> None:
    labels = announced(*SHARDS, TABLE)
    passing(labels, layout, 0, 2)
    labels.end(SHARDS[1])
    assert labels.for_table(TABLE) is None


def test_only_labels_that_fit_in_memory_are_kept(
    layout: ArrayLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = {f"{split}/samples.parquet": split for split in "abcd"}
    nbytes = layout.samples * layout.dtype.itemsize
    for limit, fits in ((3 * nbytes, 3), (3 * nbytes - 1, 2), (nbytes - 1, 0)):
        monkeypatch.setattr(checked_labels, "_IN_MEMORY_NBYTES", limit)
        labels = CheckedLabels(tables)
        assert [labels.of_split(split, layout) is not None for split in "abcd"].count(True) == fits
    assert CheckedLabels({}).of_split("a", layout) is None  # no table asks for them
