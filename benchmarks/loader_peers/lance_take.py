"""Lance: batches of random rows by `take`. With 2 workers, spawned ones: Lance is not safe after a fork."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import Dataset
from torch_batches import whole_batches

PACKAGE = "pylance"
SHAPE = (32, 32)
TOKENS = pa.list_(pa.uint16(), SHAPE[0] * SHAPE[1])


class LanceRows(Dataset[Any]):
    """Batches (tokens, labels) of a Lance dataset, opened in the process that reads it."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    @cached_property
    def rows(self) -> lance.LanceDataset:
        """The data set, opened once."""
        return lance.dataset(self.uri)

    def __len__(self) -> int:
        return int(lance.dataset(self.uri).count_rows())

    def __getitem__(self, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        table = self.rows.take(indices).combine_chunks()
        tokens = table["tokens"].chunk(0).flatten().to_numpy().reshape(-1, *SHAPE)
        return torch.from_numpy(tokens.copy()), torch.from_numpy(table["label"].to_numpy().copy())


def write(source: Path, files: Path, variant: str) -> None:
    """Write a Lance data set."""
    codes, labels = np.load(source / "codes.npy", mmap_mode="r"), np.load(source / "labels.npy")
    schema = pa.schema([("tokens", TOKENS), ("label", pa.int32())])

    def batches(step: int = 4096) -> Iterator[pa.RecordBatch]:
        for start in range(0, len(codes), step):
            rows = slice(start, start + step)
            tokens = pa.FixedSizeListArray.from_arrays(pa.array(codes[rows].reshape(-1)), type=TOKENS)
            yield pa.record_batch([tokens, pa.array(labels[rows], pa.int32())], schema=schema)

    lance.write_dataset(batches(), str(files / "samples.lance"), schema=schema)


def epochs(
    files: Path, variant: str, batch_size: int, workers: int, seed: int
) -> Callable[[int], Iterator[Any]]:
    """Return a function from epoch number to batches."""
    spawned = {"multiprocessing_context": "spawn"} if workers else {}
    return whole_batches(LanceRows(str(files / "samples.lance")), batch_size, workers, seed, **spawned)
