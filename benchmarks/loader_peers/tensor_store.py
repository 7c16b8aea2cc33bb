"""TensorStore, reading a tokenstore store of the codec zstd with a cache of 1 GB of decoded chunks.

Batches are asked for ahead. With 2 workers, it decodes and copies with two threads.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tensorstore as ts

PACKAGE = "tensorstore"
CACHE_NBYTES = 10**9
AHEAD = 2
"""Batches that are asked for before they are needed, a worker."""


def write(source: Path, files: Path, variant: str) -> None:
    """Raise NotImplementedError, for this peer reads the store that tokenstore writes."""
    raise NotImplementedError("reads the store that tokenstore writes")


def epochs(
    files: Path, variant: str, batch_size: int, workers: int, seed: int
) -> Callable[[int], Iterator[tuple[np.ndarray, np.ndarray]]]:
    """Return a function from epoch number to batches."""
    threads = max(1, workers)
    context = ts.Context(
        {"cache_pool": {"total_bytes_limit": CACHE_NBYTES}, "data_copy_concurrency": {"limit": threads}}
    )

    def array(name: str) -> ts.TensorStore:
        kvstore = {"driver": "file", "path": f"{files}/train/{name}/"}
        specification = {"driver": "zarr3", "kvstore": kvstore, "recheck_cached_data": "open"}
        return ts.open(specification, context=context, read=True).result()

    tokens, labels = array("tokens"), array("labels").read().result()

    def batches(epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        order = np.random.default_rng((seed, epoch)).permutation(len(labels))
        parts = (order[start : start + batch_size] for start in range(0, len(order), batch_size))
        asked = ((tokens[part].read(), part) for part in parts)
        coming = deque(itertools.islice(asked, AHEAD * threads))
        while coming:
            codes, part = coming.popleft()
            yield codes.result(), labels[part]
            coming.extend(itertools.islice(asked, 1))

    return batches
