"""LitData's TokensLoader: fixed-size blocks of one long row of tokens.

It keeps tokens and nothing else, so a sample's block is its label and then its codes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from litdata import StreamingDataLoader, StreamingDataset, TokensLoader, optimize

PACKAGE = "litdata"
BLOCK = 1 + 32 * 32
BLOCKS_A_CHUNK = 2**14
SAMPLES_A_TASK = 2**12


def write(source: Path, files: Path, variant: str) -> None:
    """Write blocks of tokens."""
    samples = len(np.load(source / "labels.npy", mmap_mode="r"))
    optimize(
        fn=partial(_blocks, source),
        inputs=list(range(0, samples, SAMPLES_A_TASK)),
        output_dir=str(files),
        chunk_size=BLOCK * BLOCKS_A_CHUNK,
        num_workers=1,
        reorder_files=False,
        item_loader=TokensLoader(block_size=BLOCK),
    )


def _blocks(source: Path, start: int) -> Iterator[torch.Tensor]:
    codes, labels = (np.load(source / name, mmap_mode="r") for name in ("codes.npy", "labels.npy"))
    rows = slice(start, start + SAMPLES_A_TASK)
    for tokens, label in zip(codes[rows], labels[rows], strict=True):
        yield torch.from_numpy(np.concatenate(([label], tokens.reshape(-1))).astype(np.int16))


def epochs(
    files: Path, variant: str, batch_size: int, workers: int, seed: int
) -> Callable[[int], Iterator[tuple[torch.Tensor, torch.Tensor]]]:
    """Return a function from epoch number to batches."""
    dataset = StreamingDataset(str(files), item_loader=TokensLoader(BLOCK), shuffle=True, seed=seed)
    loader = StreamingDataLoader(
        dataset, batch_size=batch_size, num_workers=workers, persistent_workers=workers > 0
    )
    return lambda _: ((blocks[:, 1:], blocks[:, 0]) for blocks in loader)
