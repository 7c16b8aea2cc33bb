"""FFCV: arrays in a .beton file, in the page cache. Batches are reused buffers: keep one, and it changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ffcv.fields import IntField, NDArrayField
from ffcv.fields.decoders import IntDecoder, NDArrayDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.transforms import Squeeze, ToTensor
from ffcv.writer import DatasetWriter

PACKAGE = "ffcv"


class Rows:
    """Samples (tokens, label) to write."""

    def __init__(self, source: Path) -> None:
        self.codes = np.load(source / "codes.npy", mmap_mode="r")
        self.labels = np.load(source / "labels.npy")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self.codes[index].astype(np.int16), int(self.labels[index])


def write(source: Path, files: Path, variant: str) -> None:
    """Write a .beton file."""
    rows = Rows(source)
    fields = {"tokens": NDArrayField(np.dtype(np.int16), rows.codes.shape[1:]), "label": IntField()}
    DatasetWriter(str(files / "samples.beton"), fields, num_workers=1).from_indexed_dataset(rows)


def epochs(
    files: Path, variant: str, batch_size: int, workers: int, seed: int
) -> Callable[[int], Iterator[tuple[Any, Any]]]:
    """Return a function from epoch number to batches."""
    loader = Loader(
        str(files / "samples.beton"),
        batch_size=batch_size,
        num_workers=max(1, workers),
        order=OrderOption.RANDOM,
        os_cache=True,
        drop_last=False,
        seed=seed,
        pipelines={
            "tokens": [NDArrayDecoder(), ToTensor()],
            "label": [IntDecoder(), ToTensor(), Squeeze()],
        },
    )
    return lambda _: iter(loader)
