"""A benchmark: how fast two Ray actors on two nodes convert, beside one process with as many workers.

    .ci/own_network python benchmarks/bench_ray.py [IMAGES] [--repeats 3]

Both nodes are on this machine, with one core each. Both ways run in turn. A rate is that of the last two
thirds of the images, when all processes have begun; the table gives the best of each, and the time until the
first third was done. The tokenizer does nothing, so that decoding and passing on are all there is.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import click
import numpy as np
from bench_convert import NoTokenizer, write_crops
from rich.console import Console
from rich.table import Table

from tokenstore.conversion import (
    ConvertOptions,
    Executor,
    LocalExecutor,
    Progress,
    RayExecutor,
    convert_source,
)
from tokenstore.sources import open_source

ACTORS = 2


class Stopwatch:
    """A progress callback that measures the rate after the first third of the samples."""

    def __init__(self) -> None:
        self.begun = time.perf_counter()
        self.third: tuple[float, int] | None = None
        self.last = (0.0, 0)

    def __call__(self, state: Progress) -> None:
        """Take note of the time."""
        self.last = time.perf_counter(), state.done
        if self.third is None and state.done >= state.total / 3:
            self.third = self.last

    @property
    def rate(self) -> float:
        """The samples a second after the first third."""
        assert self.third is not None
        return (self.last[1] - self.third[1]) / (self.last[0] - self.third[0])

    @property
    def start(self) -> float:
        """The seconds until the first third was done."""
        assert self.third is not None
        return self.third[0] - self.begun


@click.command()
@click.argument("images", required=False, type=click.Path(exists=True, path_type=Path))
@click.option("--repeats", default=3, show_default=True)
def main(images: Path | None, repeats: int) -> None:
    """Convert IMAGES both ways, in turn, and print a table."""
    from ray.cluster_utils import Cluster

    root = Path(__file__).parents[1]
    os.environ["PYTHONPATH"] = os.pathsep.join(map(str, (root, root / "benchmarks")))
    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    cluster.add_node(**node)
    with tempfile.TemporaryDirectory() as scratch:
        if images is None:
            images = Path(scratch, "images")
            images.mkdir()
            write_crops(images)
        source = open_source(images)
        ways: dict[str, Executor] = {
            f"convert, {ACTORS} workers": LocalExecutor(ACTORS),
            f"{ACTORS} Ray actors": RayExecutor(cluster.address, actors=ACTORS, range_samples=64),
        }
        rates, starts = dict.fromkeys(ways, 0.0), dict.fromkeys(ways, np.inf)
        for repeat in range(repeats):
            for number, (name, executor) in enumerate(ways.items()):
                watch = Stopwatch()
                convert_source(
                    source,
                    Path(scratch, f"{repeat}-{number}.zarr"),
                    tokenizer=NoTokenizer(),
                    options=ConvertOptions(on_error="skip"),
                    executor=executor,
                    on_progress=watch,
                )
                rates[name] = max(rates[name], watch.rate)
                starts[name] = min(starts[name], watch.start)
        table = Table("what", "images/s once started", "s until a third was done")
        for name in ways:
            table.add_row(name, f"{rates[name]:,.0f}", f"{starts[name]:.1f}")
        Console().print(table)
        alone, ray = rates.values()
        print(f"Ray runs at {ray / alone:.3f} times the rate of one process")
    cluster.shutdown()


if __name__ == "__main__":
    main()
