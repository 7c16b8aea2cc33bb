"""pyarrow: a Parquet file read by row groups in a random order, and samples shuffled within a pool of groups.

Compressed with zstd. The variant `lists` has a typed column of lists; `binary` has bytes that only who wrote
them can tell are codes, which Parquet reads much faster. With 2 workers pyarrow decodes with two threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

PACKAGE = "pyarrow"
PARQUET = "samples.parquet"
SHAPE = (32, 32)
GROUP_SAMPLES = 1024
POOL_GROUPS = 16


def write(source: Path, files: Path, variant: str) -> None:
    """Write a Parquet file."""
    codes, labels = np.load(source / "codes.npy", mmap_mode="r"), np.load(source / "labels.npy")
    length = codes[0].size
    tokens = pa.binary(2 * length) if variant == "binary" else pa.list_(pa.uint16(), length)
    schema = pa.schema([("tokens", tokens), ("label", pa.int32())])
    with pq.ParquetWriter(files / PARQUET, schema, compression="zstd", use_dictionary=False) as writer:
        for start in range(0, len(codes), GROUP_SAMPLES):
            rows = np.ascontiguousarray(codes[start : start + GROUP_SAMPLES])
            if variant == "binary":
                column = pa.FixedSizeBinaryArray.from_buffers(tokens, len(rows), [None, pa.py_buffer(rows)])
            else:
                column = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), type=tokens)
            group = pa.table([column, labels[start : start + GROUP_SAMPLES]], schema=schema)
            writer.write_table(group, GROUP_SAMPLES)


def epochs(
    files: Path, variant: str, batch_size: int, workers: int, seed: int
) -> Callable[[int], Iterator[tuple[np.ndarray, np.ndarray]]]:
    """Return a function from epoch number to batches."""
    pa.set_cpu_count(max(1, workers))
    file = pq.ParquetFile(files / PARQUET, memory_map=True)

    def batches(epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        random = np.random.default_rng((seed, epoch))
        groups = random.permutation(file.num_row_groups).tolist()
        for start in range(0, len(groups), POOL_GROUPS):
            table = file.read_row_groups(groups[start : start + POOL_GROUPS], use_threads=workers > 1)
            tokens, labels = _arrays(table.combine_chunks(), variant)
            order = random.permutation(len(labels))
            for first in range(0, len(order), batch_size):
                part = order[first : first + batch_size]
                yield tokens[part], labels[part]

    return batches


def _arrays(table: pa.Table, variant: str) -> tuple[np.ndarray, np.ndarray]:
    tokens, labels = table["tokens"].chunk(0), table["label"].to_numpy()
    if variant == "binary":
        return np.frombuffer(tokens.buffers()[1], np.uint16).reshape(len(labels), *SHAPE), labels
    return tokens.flatten().to_numpy().reshape(len(labels), *SHAPE), labels
