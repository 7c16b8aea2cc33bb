"""A benchmark: what do views of a hundred million or a billion samples cost?

    python benchmarks/bench_views.py [--size 10000000 --size 100000000] [--only split]

No data is read: labels are computed from row numbers. Each view is made in a process of its own. A table has
the CPU seconds, the MB of anonymous memory by which the process grew at its peak, both in all and for a
sample, and the microseconds that the row numbers of a random batch of 256 take.
"""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import scale_stores
from rich.console import Console
from rich.table import Table
from scale_measures import BATCH, Memory

import tokenstore
from tokenstore.reading import Rows

BATCHES = 200
_HASH = np.uint64(0x9E3779B97F4A7C15)


class ComputedRows:
    """As much of rows as views are made from: any number of labels that are a function of the row number."""

    columns = ("labels",)
    row_numbers = None

    def __init__(self, samples: int, like: Rows) -> None:
        self._samples = samples
        self.base, self.manifests = self, like.manifests

    def __len__(self) -> int:
        return self._samples

    def read(self, name: str, indices: object, out: Any = None, prefetched: Any = None) -> npt.NDArray[Any]:
        """Return labels (m,) of the samples at `indices` (m,)."""
        mixed = np.asarray(indices).astype(np.uint64) * _HASH >> np.uint64(40)
        return (mixed % np.uint64(scale_stores.CLASSES)).astype(np.int32)


def split(dataset: tokenstore.TokenDataset) -> list[Rows]:
    """Split a tenth of the samples off."""
    return [part.rows for part in dataset.split(0.1)]


def choose(dataset: tokenstore.TokenDataset) -> list[Rows]:
    """Keep half of the classes."""
    return [dataset.filter(labels=range(0, scale_stores.CLASSES, 2)).rows]


def select(dataset: tokenstore.TokenDataset) -> list[Rows]:
    """Take a list of all samples in another order; the list itself is not counted."""
    return [dataset.select(LISTED[0]).rows]


LISTED: list[Any] = []
VIEWS: dict[str, tuple[str, Callable[[tokenstore.TokenDataset], list[Rows]]]] = {
    "split": ("split(0.1), both parts", split),
    "filter": ("filter, half of 1,000 classes", choose),
    "select": ("select, a list of all samples", select),
}


def work(name: str, samples: int, store: str) -> None:
    """Make one view in this process, and print its figures."""
    tiny = tokenstore.TokenDataset(store)
    make = VIEWS[name][1]
    LISTED.append(np.arange(64, dtype=np.uint32))
    for part in make(tiny):
        _look_up(part, 1)
    dataset = copy.copy(tiny)
    rows: Any = ComputedRows(samples, tiny.rows)
    dataset.rows = rows
    if name == "select":
        LISTED[0] = np.arange(samples, dtype=np.uint32)[::-1].copy()
    before = Memory.now()
    memory = Memory()
    memory.start()
    cpu = time.process_time()
    views = make(dataset)
    cpu = time.process_time() - cpu
    peak = memory.stop() - before
    print(json.dumps({"cpu": cpu, "memory": peak, "batch": 1e6 * _look_up(views[0], BATCHES)}))


def _look_up(view: Rows, batches: int) -> float:
    """Return the CPU seconds that the row numbers of a random batch take."""
    numbers = view.row_numbers
    assert numbers is not None
    positions = np.random.default_rng(0).integers(0, len(view), (batches, BATCH))
    numbers.at(positions[0])
    started = time.process_time()
    for batch in positions:
        numbers.at(batch)
    return (time.process_time() - started) / batches


@click.command()
@click.option("--size", "sizes", type=int, multiple=True, default=(10_000_000, 100_000_000))
@click.option("--only", multiple=True, type=click.Choice(list(VIEWS)), help="Make only these views.")
def main(sizes: tuple[int, ...], only: tuple[str, ...]) -> None:
    """Make views of many samples and print a table."""
    table = Table("samples", "view", "CPU time, s", "memory, MB", "for a sample, bytes", "a batch, us")
    with tempfile.TemporaryDirectory() as folder:
        store = scale_stores.write(Path(folder), scale_stores.Size(64, 1))
        for name in only or VIEWS:
            for samples in sizes:
                line = [sys.executable, __file__, "work", name, str(samples), str(store)]
                done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True)
                run = json.loads(done.stdout)
                per_sample = run["memory"] * 1e6 / samples
                table.add_row(
                    f"{samples:,}",
                    VIEWS[name][0],
                    f"{run['cpu']:.1f}",
                    f"{run['memory']:.0f}",
                    f"{per_sample:.2f}",
                    f"{run['batch']:.0f}",
                )
    Console().print(table)


if __name__ == "__main__":
    if sys.argv[1:2] == ["work"]:
        work(sys.argv[2], int(sys.argv[3]), sys.argv[4])
    else:
        main()
