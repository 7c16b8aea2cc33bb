"""WebDataset: tar shards in a random order, and a shuffle buffer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import webdataset as wds

PACKAGE = "webdataset"
SHAPE = (32, 32)
SHARD_SAMPLES = 5000
BUFFER = 5000


def write(source: Path, files: Path, variant: str) -> None:
    """Write tar shards."""
    codes, labels = np.load(source / "codes.npy", mmap_mode="r"), np.load(source / "labels.npy")
    # a time in whole seconds, without which every member gets a second header
    with wds.ShardWriter(str(files / "%06d.tar"), maxcount=SHARD_SAMPLES, verbose=0, mtime=1) as out:
        for index, (tokens, label) in enumerate(zip(codes, labels.tolist(), strict=True)):
            out.write({"__key__": f"{index:08d}", "bin": tokens.tobytes(), "cls": label})


def epochs(
    files: Path, variant: str, batch_size: int, workers: int, seed: int
) -> Callable[[int], Iterator[tuple[Any, Any]]]:
    """Return a function from epoch number to batches."""
    urls = sorted(map(str, files.glob("*.tar")))
    dataset = (
        wds.WebDataset(urls, shardshuffle=len(urls), seed=seed)
        .shuffle(BUFFER)
        .to_tuple("bin", "cls")
        .map(_decoded)
        .batched(batch_size)
    )
    loader = wds.WebLoader(dataset, batch_size=None, num_workers=workers, persistent_workers=workers > 0)
    return lambda _: iter(loader)


def _decoded(sample: tuple[bytes, bytes]) -> tuple[np.ndarray, int]:
    return np.frombuffer(sample[0], np.int16).reshape(SHAPE), int(sample[1])
