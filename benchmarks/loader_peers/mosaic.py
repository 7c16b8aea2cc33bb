"""MosaicML Streaming: MDS shards of arrays, read by StreamingDataset and StreamingDataLoader."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from streaming import MDSWriter, StreamingDataLoader, StreamingDataset
from streaming.base.util import clean_stale_shared_memory

PACKAGE = "mosaicml-streaming"


def write(source: Path, files: Path, variant: str) -> None:
    """Write MDS shards."""
    codes, labels = np.load(source / "codes.npy", mmap_mode="r"), np.load(source / "labels.npy")
    sides = ",".join(map(str, codes.shape[1:]))
    with MDSWriter(out=str(files), columns={"tokens": f"ndarray:uint16:{sides}", "label": "int32"}) as out:
        for tokens, label in zip(codes, labels.astype(np.int32), strict=True):
            out.write({"tokens": tokens, "label": label})


def epochs(
    files: Path, variant: str, batch_size: int, workers: int, seed: int
) -> Callable[[int], Iterator[tuple[Any, Any]]]:
    """Return a function from epoch number to batches."""
    clean_stale_shared_memory()
    dataset = StreamingDataset(local=str(files), shuffle=True, shuffle_seed=seed, batch_size=batch_size)
    loader = StreamingDataLoader(
        dataset, batch_size=batch_size, num_workers=workers, persistent_workers=workers > 0
    )
    return lambda _: ((batch["tokens"], batch["label"]) for batch in loader)
