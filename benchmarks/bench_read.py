"""A benchmark: how fast one sample and 256 random samples are read, against zarr-python and numpy's memmap.

    python benchmarks/bench_read.py [--samples 50000]

Makes a store of random 32x32 codes (K = 391, bitpack, chunks of 64) and the same codes as a uint16 `.npy`
file in a temporary folder. Everything is in the page cache. All contenders run in turn, many times; the
table gives medians. `first touch` forgets what was verified and opens the store's files again, so every
touched chunk's checksum is verified.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import click
import numpy as np
import zarr
from rich.console import Console
from rich.table import Table

import tokenstore
from tokenstore.format import TokenizerIdentity, samples_table
from tokenstore.storage import open_storage
from tokenstore.writing.spec import StoreSpec
from tokenstore.writing.writer import StoreWriter

CODEBOOK_SIZE = 391
GRID = (32, 32)
BATCH = 256
IN_A_ROW = 5
"""Reads by one contender before it is the next one's turn: each leaves the caches to the next as it likes."""


def write_store(path: Path, codes: np.ndarray, codec: str = "bitpack") -> None:
    """Write codes to a store in chunks of 64."""
    spec = StoreSpec(TokenizerIdentity("random"), GRID, (CODEBOOK_SIZE,), codec=codec)
    labels = np.zeros(len(codes), np.int32)
    with StoreWriter(open_storage(path), spec) as writer:
        split = writer.split("train", len(codes))
        for start in range(0, len(codes), split.shard_samples):
            stop = min(start + split.shard_samples, len(codes))
            rows = samples_table(np.arange(start, stop), ["random"] * (stop - start), None, None)
            split.write_shard(codes[start:stop], {"labels": labels[start:stop]}, rows, stop, [])
        writer.commit()


@click.command()
@click.option("--samples", default=50_000, show_default=True)
@click.option("--repeats", default=20, show_default=True)
@click.option("--codec", type=click.Choice(["bitpack", "zstd"]), default="bitpack", show_default=True)
def main(samples: int, repeats: int, codec: str) -> None:
    """Read by every contender in turn and print a table of medians."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, CODEBOOK_SIZE, (samples, *GRID)).astype(np.uint16)
    with tempfile.TemporaryDirectory() as folder:
        store, flat = Path(folder, "store.zarr"), Path(folder, "codes.npy")
        write_store(store, codes, codec)
        np.save(flat, codes)
        reader = tokenstore.open(store)["train"].arrays["tokens"]
        array = zarr.open(store, mode="r")["train/tokens"]
        memmap = np.load(flat, mmap_mode="r")
        np.array(memmap)  # into the page cache
        reader.read(np.arange(samples))

        # name -> what is done before the clock starts, and what is timed
        contenders: dict[str, tuple[Callable[[np.ndarray], object], Callable[[np.ndarray], object]]] = {
            "tokenstore, first touch": (lambda i: reader.forget(), reader.read),
            "tokenstore, verified": (reader.read, reader.read),
            "zarr-python": (lambda i: None, lambda i: array.oindex[i] if len(i) > 1 else array[int(i[0])]),
            "numpy memmap": (lambda i: None, lambda i: memmap[i]),
        }
        times: dict[str, dict[int, list[float]]] = {name: {1: [], BATCH: []} for name in contenders}
        for _ in range(repeats):
            for count in (1, BATCH):
                for name, (prepare, read) in contenders.items():
                    for _ in range(IN_A_ROW):
                        indices = rng.integers(0, samples, count)
                        prepare(indices)
                        started = time.perf_counter()
                        values = read(indices)
                        times[name][count].append(time.perf_counter() - started)
                        assert np.array_equal(np.squeeze(values), np.squeeze(codes[indices]))
        table = Table("read", "1 sample, ms", f"{BATCH} samples, ms", f"{BATCH}: samples/s")
        table.title = f"{codec}, {samples:,} samples"
        medians = {name: {count: median(t) for count, t in by.items()} for name, by in times.items()}
        for name, by in medians.items():
            table.add_row(name, f"{by[1] * 1e3:.3f}", f"{by[BATCH] * 1e3:.2f}", f"{BATCH / by[BATCH]:,.0f}")
        Console().print(table)
        batch = {name: by[BATCH] for name, by in medians.items()}
        gain = batch["zarr-python"] / batch["tokenstore, first touch"]
        cost = batch["tokenstore, verified"] / batch["numpy memmap"]
        print(f"{BATCH} samples on first touch: {gain:.1f} times as fast as zarr-python")
        print(f"{BATCH} samples, chunks verified: {cost:.2f} times the time of numpy memmap")


if __name__ == "__main__":
    main()
