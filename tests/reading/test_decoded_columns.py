"""Labels and other small samples of more bytes than stay in memory: decoded once, into a temporary file."""

from __future__ import annotations

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.stores import random_codes, write_store

import tokenstore
from tokenstore import TokenDataset, TokenLoader
from tokenstore.reading import SplitReader, chunk_array, decoded

SAMPLES = 90
LABELS = np.random.default_rng(0).permutation(SAMPLES).astype(np.int32)
PAIRS = np.random.default_rng(1).normal(size=(SAMPLES, 2))


@pytest.fixture(params=["local", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path, memory_url: str) -> Any:
    """Write 90 samples in 9 shards to a folder, or to a store that is fetched."""
    target: Any = tmp_path / "a" if request.param == "local" else memory_url
    rows = (random_codes(SAMPLES, (2, 3), 391), LABELS, {"pairs": PAIRS})
    write_store(target, {"train": rows}, chunk_samples=5, shard_samples=10)
    return target


@pytest.fixture
def in_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no array's values stay in memory."""
    monkeypatch.setattr(decoded, "IN_MEMORY_NBYTES", 100)


def check(split: SplitReader, batches: int = 5) -> None:
    rng = np.random.default_rng(2)
    for _ in range(batches):
        rows = rng.integers(-SAMPLES, SAMPLES, 20)
        np.testing.assert_array_equal(split.read("labels", rows), LABELS[rows])
        np.testing.assert_array_equal(split.read("pairs", rows), PAIRS[rows])


@pytest.mark.usefixtures("in_files")
def test_values_in_a_file_are_those_in_memory_and_each_chunk_is_decoded_once(
    place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers: list[tuple[str, int]] = []
    decode = chunk_array.ChunkArrayReader.decode_chunk

    def counted(self: Any, chunk: int, *arguments: Any) -> Any:
        numbers.append((self.name, chunk))
        return decode(self, chunk, *arguments)

    monkeypatch.setattr(chunk_array.ChunkArrayReader, "decode_chunk", counted)
    split = tokenstore.open(place)["train"]
    check(split, 20)
    assert len(numbers) == len(set(numbers)) == 18
    assert not split.arrays["labels"]._values.in_memory
    split.arrays["labels"].forget()
    check(split)
    batches = list(TokenLoader(TokenDataset(place), 9, True, seed=1))
    labels = np.concatenate([labels.numpy() for _, labels in batches])
    assert sorted(labels.tolist()) == list(range(SAMPLES))


@pytest.mark.usefixtures("in_files")
def test_threads_that_come_first_at_once_share_the_values(
    place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = tokenstore.open(place)["train"]
    together = threading.Barrier(4)
    plain = decoded.DecodedValues.__init__

    def wait(self: Any, *arguments: Any) -> None:
        plain(self, *arguments)
        together.wait(30)

    monkeypatch.setattr(decoded.DecodedValues, "__init__", wait)

    def work(_: int) -> None:
        np.testing.assert_array_equal(split.read("labels", np.arange(SAMPLES)), LABELS)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    check(split, 0)
    np.testing.assert_array_equal(split.read("labels", np.arange(SAMPLES)), LABELS)


@pytest.mark.usefixtures("in_files")
@pytest.mark.parametrize("fault", ["no folder", "full disk", "no mapping"])
def test_without_room_for_the_file_values_are_read_slowly_and_a_warning_says_so(
    place: Any, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    written = []
    plain = os.pwrite

    def write_once(descriptor: int, data: Any, position: int) -> int:
        written.append(position)
        return refuse() or 0 if len(written) > 1 else plain(descriptor, data, position)

    split = tokenstore.open(place)["train"]
    if fault == "no folder":
        monkeypatch.setattr(decoded.tempfile, "TemporaryFile", refuse)
    elif fault == "full disk":
        monkeypatch.setattr(os, "pwrite", write_once)
    else:
        monkeypatch.setattr(decoded.mmap, "mmap", refuse)
    with pytest.warns(UserWarning, match="train/labels: no room for 360 bytes of decoded values in .*TMPDIR"):
        np.testing.assert_array_equal(split.read("labels", np.arange(SAMPLES)), LABELS)
    np.testing.assert_array_equal(split.read("labels", [5, 60]), LABELS[[5, 60]])


@pytest.mark.usefixtures("in_files")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks")
@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
def test_a_fork_reads_on_in_the_same_file(tmp_path: Path) -> None:
    rows = (random_codes(SAMPLES, (2, 3), 391), LABELS, {"pairs": PAIRS})
    write_store(tmp_path / "a", {"train": rows}, chunk_samples=5, shard_samples=10)
    split = tokenstore.open(tmp_path / "a")["train"]
    split.read("labels", [0, 50])
    child = os.fork()
    if child == 0:
        try:
            check(split)
            os._exit(0)
        finally:
            os._exit(1)
    check(split)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
