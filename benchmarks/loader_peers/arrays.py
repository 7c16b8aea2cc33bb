"""numpy's memmap of uint16 codes, gathered at random indices into a fresh array: the limit.

With 2 workers, two threads gather the next batches.
"""

from __future__ import annotations

import itertools
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

PACKAGE = "numpy"
AHEAD = 2
"""Batches that each thread has under way or ready."""


def write(source: Path, files: Path, variant: str) -> None:
    """Copy the arrays."""
    for name in ("codes.npy", "labels.npy"):
        shutil.copyfile(source / name, files / name)


def epochs(
    files: Path, variant: str, batch_size: int, workers: int, seed: int
) -> Callable[[int], Iterator[tuple[np.ndarray, np.ndarray]]]:
    """Return a function from epoch number to batches."""
    names = "codes.npy", "labels.npy"
    # plain arrays over the mapped pages: the class memmap only adds to each call
    codes, labels = (np.asarray(np.load(files / name, mmap_mode="r")) for name in names)

    def gather(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return codes[indices], labels[indices]

    def batches(epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        order = np.random.default_rng((seed, epoch)).permutation(len(codes))
        parts = (order[start : start + batch_size] for start in range(0, len(order), batch_size))
        if not workers:
            yield from map(gather, parts)
            return
        with ThreadPoolExecutor(workers) as pool:
            ready = deque(pool.submit(gather, part) for part in itertools.islice(parts, AHEAD * workers))
            while ready:
                yield ready.popleft().result()
                ready.extend(pool.submit(gather, part) for part in itertools.islice(parts, 1))

    return batches
