"""Tests of labels that the checks of shards share with the check of the samples table."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from helpers.stores import Samples, random_codes, write_store

from tokenstore.audit import checked_labels
from tokenstore.audit.checked_labels import CheckedLabels
from tokenstore.format import ArrayLayout
from tokenstore.reading import StoreFiles
from tokenstore.storage import open_storage


@pytest.fixture
def layout(tmp_path: Path) -> ArrayLayout:
    """Return the layout of 40 labels in three shards."""
    labels = (np.arange(40) % 3).astype(np.int32)
    content = {"train": Samples(random_codes(40, (2, 2), 50), labels)}
    write_store(tmp_path / "s", content, 50, chunk_samples=4, shard_samples=16)
    return StoreFiles(open_storage(tmp_path / "s")).layout("train/labels")


def test_labels_are_known_once_every_shard_has_passed(layout: ArrayLayout) -> None:
    labels = CheckedLabels(layout)
    for _ in range(layout.shards):
        assert labels.complete() is None  # some check has not begun, and is not waited for
        labels.begin()
    found: list[object] = []
    waiting = threading.Thread(target=lambda: found.append(labels.complete()))
    waiting.start()
    for _ in range(layout.shards):
        assert not found
        labels.end(passed=True)
    waiting.join(60)
    assert found == [labels.values]


def test_a_shard_that_does_not_pass_ends_the_wait(layout: ArrayLayout) -> None:
    labels = CheckedLabels(layout)
    for _ in range(layout.shards):
        labels.begin()
    labels.end(passed=False)
    assert labels.complete() is None


def test_only_labels_that_fit_are_kept(layout: ArrayLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    nbytes = layout.samples * layout.dtype.itemsize
    for limit, kept in ((nbytes, True), (nbytes - 1, False)):
        monkeypatch.setattr(checked_labels, "_IN_MEMORY_NBYTES", limit)
        assert (CheckedLabels.of(layout) is not None) == kept
