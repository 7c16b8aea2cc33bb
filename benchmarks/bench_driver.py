"""A benchmark: what does the driver of a cluster spend on each sample, since all codes pass through it?

    .ci/own_network python benchmarks/bench_driver.py [--samples 100000] [--side 32] [--target local|s3]

Ready codes of a 2,048-code codebook are converted by this process alone and with two Ray actors on two nodes
of this machine, and the store is recoded both ways. Actors encode nothing but read the codes, so the driver's
work is all there is: taking segments, packing shards, writing them. CPU seconds are those of this process,
threads included, once a third of the samples is done. `samples/s` is what one core of a driver can take,
`tokenizers` those of 1,000 images a second that keep it busy, `MB/s` the codes that come with them.

`--target s3` writes to moto on this machine.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

import tokenstore
from tokenstore.conversion import Progress, RayExecutor

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from helpers.object_storage import moto_server
from helpers.ray_clusters import two_nodes

CODEBOOK_SIZE = 2048
TOKENIZER_RATE = 1000
"""The images a second of one tokenizer on a GPU, for the table."""


class CpuWatch:
    """A count of the CPU seconds of this process after a third of the samples."""

    def __init__(self) -> None:
        self.third: tuple[float, int] | None = None
        self.last = (0.0, 0)

    def note(self, done: int, total: int) -> None:
        """Take note of the CPU time until so many samples are done."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        self.last = usage.ru_utime + usage.ru_stime, done
        if self.third is None and done >= total / 3:
            self.third = self.last

    @property
    def microseconds(self) -> float:
        """The CPU time of a sample."""
        assert self.third is not None, "more samples are needed"
        return 1e6 * (self.last[0] - self.third[0]) / (self.last[1] - self.third[1])


def measured(run: Callable[..., Any], **settings: Any) -> float:
    """Return the CPU microseconds of a sample of a conversion or a recoding."""
    watch = CpuWatch()

    def on_progress(*state: Any) -> None:
        if isinstance(state[0], Progress):
            watch.note(state[0].done, state[0].total)
        elif str(state[0]).endswith("rewriting"):
            watch.note(*state[1:])

    run(on_progress=on_progress, **settings)
    return watch.microseconds


@click.command()
@click.option("--samples", default=100_000, show_default=True)
@click.option("--side", default=32, show_default=True, help="The side of a sample's grid of codes.")
@click.option("--shard-samples", default=4096, show_default=True)
@click.option("--target", type=click.Choice(["local", "s3"]), default="local", show_default=True)
def main(samples: int, side: int, shard_samples: int, target: str) -> None:
    """Measure both passes alone and on a cluster, and print a table."""
    rows = []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        codes = np.random.default_rng(0).integers(0, CODEBOOK_SIZE, (samples, side, side), np.uint16)
        np.save(folder / "codes.npy", codes)
        where, options = str(folder), None
        if target == "s3":
            server = stack.enter_context(moto_server())
            where, options = f"s3://{server.new_bucket()}", server.storage_options()
        cluster = stack.enter_context(two_nodes())
        executors = {"alone": None, "two actors": RayExecutor(cluster.address, actors=2)}
        for name, executor in executors.items():
            out, shared = f"{where}/{name[:3]}.zarr", {"executor": executor, "storage_options": options}
            sizes = {"codebook_size": CODEBOOK_SIZE, "shard_samples": shard_samples}
            first = measured(tokenstore.convert, source=folder / "codes.npy", target=out, **sizes, **shared)
            again = {"codec": "zstd", "shard_samples": shard_samples}
            second = measured(
                tokenstore.recode, store=out, out=f"{where}/{name[:3]}-zstd.zarr", **again, **shared
            )
            rows += [("conversion", name, first), ("second pass", name, second)]
    table = Table("pass", "executor", "CPU us a sample", "samples/s", "tokenizers", "MB/s")
    for name, executor, spent in sorted(rows):
        rate = 1e6 / spent
        nbytes = rate * side * side * (2 if name == "conversion" else 11 / 8) / 1e6
        cells = f"{spent:.1f}", f"{rate:,.0f}", f"{rate / TOKENIZER_RATE:.0f}", f"{nbytes:.0f}"
        table.add_row(name, executor, *cells)
    console = Console()
    console.print(f"{samples:,} samples of {side} x {side} codes, {target}, {os.cpu_count()} cores")
    console.print(table)


if __name__ == "__main__":
    main()
