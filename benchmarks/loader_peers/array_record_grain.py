"""ArrayRecord, read through Grain. With 2 workers, two processes.

The variant `samples` is the pipeline that Grain's guides show; `batches` asks the file for the records of a
whole batch in one call, which is much faster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grain
import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

PACKAGE = "array_record"
SHAPE = (32, 32)
FILE_SAMPLES = 2**17


def write(source: Path, files: Path, variant: str) -> None:
    """Write the samples as records."""
    codes, labels = np.load(source / "codes.npy", mmap_mode="r"), np.load(source / "labels.npy")
    for number, start in enumerate(range(0, len(codes), FILE_SAMPLES)):
        # groups of one record, as is advised for random access
        writer = ArrayRecordWriter(str(files / f"{number:05d}.array_record"), "group_size:1")
        rows = slice(start, start + FILE_SAMPLES)
        for tokens, label in zip(codes[rows], labels[rows].astype("<u2"), strict=True):
            writer.write(tokens.tobytes() + label.tobytes())
        writer.close()


class Batches:
    """A source for Grain whose elements are batches (tokens, labels) of records in a given order."""

    def __init__(self, records: Any, order: np.ndarray, batch_size: int) -> None:
        self.records = records
        self.order = order
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.order) // self.batch_size)

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        indices = self.order[number * self.batch_size : (number + 1) * self.batch_size].tolist()
        rows = np.frombuffer(b"".join(self.records.__getitems__(indices)), np.uint16).reshape(
            len(indices), -1
        )
        return rows[:, :-1].reshape(-1, *SHAPE), rows[:, -1]


def epochs(
    files: Path, variant: str, batch_size: int, workers: int, seed: int
) -> Callable[[int], Iterator[tuple[np.ndarray, np.ndarray]]]:
    """Return a function from epoch number to batches."""
    records = grain.sources.ArrayRecordDataSource(sorted(map(str, files.glob("*.array_record"))))
    # a thread that reads ahead gains nothing here, and is one more than "1 process" says
    options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)

    def batches(epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        if variant == "batches":
            order = np.random.default_rng((seed, epoch)).permutation(len(records))
            mapped = grain.MapDataset.source(Batches(records, order, batch_size))
        else:
            mapped = grain.MapDataset.source(records).shuffle(seed + epoch).map(_decoded).batch(batch_size)
        dataset = mapped.to_iter_dataset(options)
        return iter(dataset.mp_prefetch(grain.MultiprocessingOptions(workers)) if workers else dataset)

    return batches


def _decoded(record: bytes) -> tuple[np.ndarray, np.uint16]:
    values = np.frombuffer(record, np.uint16)
    return values[:-1].reshape(SHAPE), values[-1]
