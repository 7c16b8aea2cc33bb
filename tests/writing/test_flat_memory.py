"""Commands on whole stores: their memory does not grow with the number of samples."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.growth import peak_nbytes
from helpers.stores import Samples, write_store

import tokenstore
from tokenstore.audit import checked_labels, codes, sound_files, sound_shards, stats
from tokenstore.codecs.context import fitting
from tokenstore.format import ROOT, tables
from tokenstore.reading import array, decoded, row_numbers
from tokenstore.storage import local, open_storage
from tokenstore.writing import codec_choice, drawing, encoded, prune
from tokenstore.writing.export import array_files, contents, npz
from tokenstore.writing.prune import prune_codebook

SHARD = 4096
SMALL, LARGE = 3 * SHARD, 12 * SHARD
FITTED_CODES = 2**14
"""The codes that the context codec is fitted to, fewer than either store has."""

Command = Callable[[Path, Path], object]


def rewrite(store: Path, out: Path) -> None:
    """Write the samples of a store again, from a loop."""
    split, place = tokenstore.open(store)["train"], out
    with tokenstore.write(place, grid=(2, 2), codebook_size=50, shard_samples=SHARD) as writer:
        for start in range(0, len(split), 500):
            writer.add(split[start : start + 500], split.read("labels", slice(start, start + 500)))


# subtle: of two threads each may hold a block or not at the peak, so what is close to its bound has one
COMMANDS: dict[str, Command] = {
    "stats with labels": lambda store, _: tokenstore.stats(store),
    "recode": lambda store, out: tokenstore.recode(store, out, codec="zstd", shard_samples=SHARD, jobs=2),
    "context": lambda store, out: tokenstore.recode(store, out, codec="context", shard_samples=SHARD, jobs=2),
    "verify": lambda store, _: tokenstore.verify(store),
    "copy": lambda store, out: tokenstore.copy(store, out, jobs=1),
    "select": lambda store, out: tokenstore.select(store, out, where="label < 4 and source != 'x'", jobs=1),
    "merge": lambda store, out: tokenstore.merge(out, [store, store], jobs=2),
    "relabel": lambda store, out: tokenstore.relabel(store, out, class_map={"a": "b"}),
    "prune": lambda store, out: prune_codebook(
        tokenstore.open(store), open_storage(out), shard_samples=SHARD
    ),
    "write": rewrite,
    "export npz": lambda store, out: tokenstore.export(store, out, to="npz"),
    "export safetensors": lambda store, out: tokenstore.export(store, out, to="safetensors"),
    "export jsonl": lambda store, out: tokenstore.export(store, out, to="jsonl"),
    "export parquet": lambda store, out: tokenstore.export(store, out, to="parquet"),
}


LONG = ("context", "export jsonl")
"""The commands that take more than a few seconds while memory is traced."""


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let everything that is done in blocks be done in small ones, as if the stores were large."""
    monkeypatch.setattr(codes, "BLOCK_CODES", 2**14)
    monkeypatch.setattr(prune, "_BLOCK_CODES", 2**14)
    monkeypatch.setattr(stats, "_LABELS_AT_ONCE", 2**12)
    monkeypatch.setattr(array, "_RANGE_SAMPLES", 2**10)
    monkeypatch.setattr(row_numbers, "BLOCK", 2**10)
    monkeypatch.setattr(row_numbers, "MOST_LISTED", 2**10)
    monkeypatch.setattr(array, "_STREAM_NBYTES", 2**14)
    monkeypatch.setattr(decoded, "IN_MEMORY_NBYTES", 0)  # whose memory is only touched when it is used
    monkeypatch.setattr(encoded, "_PIECE_NBYTES", 2**13)
    monkeypatch.setattr(checked_labels, "_IN_MEMORY_NBYTES", 2**12)
    monkeypatch.setattr(sound_files, "_LOCAL_PIECE_NBYTES", 2**14)
    monkeypatch.setattr(sound_shards, "_VALUES_NBYTES", 2**12)
    monkeypatch.setattr(local, "LOCAL_BLOCK_NBYTES", 2**14)
    monkeypatch.setattr(tables, "BATCH_ROWS", 2**10)
    monkeypatch.setattr(codec_choice, "MAX_FIT_CODES", FITTED_CODES)
    monkeypatch.setattr(fitting, "MAX_FIT_CODES", FITTED_CODES)
    monkeypatch.setattr(drawing, "LISTED", 2**12)
    monkeypatch.setattr(contents, "_MOST_BATCH", 2**9)
    monkeypatch.setattr(array_files, "_READ_NBYTES", 2**12)
    monkeypatch.setattr(npz, "_ROWS_NBYTES", 2**12)
    monkeypatch.setattr(drawing, "_RAW_AT_ONCE", 2**11)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Write a store, and one of four times the samples in shards of the same size."""
    folder = tmp_path_factory.mktemp("stores")
    rng = np.random.default_rng(0)
    for samples in (SMALL, LARGE):
        drawn = rng.integers(0, 30, (samples, 2, 2), np.uint8)
        labels = rng.integers(0, 5, samples, np.int32)
        write_store(
            folder / str(samples),
            {"train": Samples(drawn, labels)},
            50,
            shard_samples=SHARD,
            class_names=tuple("abcde"),
        )
    return folder / str(SMALL), folder / str(LARGE)


@pytest.mark.usefixtures("quick_fits")
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.thorough if name in LONG else ()) for name in COMMANDS],
)
def test_memory_is_that_of_a_quarter_of_the_samples(
    name: str, stores: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    COMMANDS[name](stores[0], out)  # what is imported and compiled once
    peaks = []
    for store in stores:
        shutil.rmtree(out, ignore_errors=True)
        peaks.append(peak_nbytes(lambda store=store: COMMANDS[name](store, out)))  # type: ignore[misc]
    of_root = 8 * ((stores[1] / ROOT).stat().st_size - (stores[0] / ROOT).stat().st_size)
    assert peaks[1] < 1.2 * peaks[0] + of_root
