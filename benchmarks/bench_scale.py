"""A benchmark: how do time and memory grow with the number of samples and of shards?

    python benchmarks/bench_scale.py [--size 1000000:100 --size 1000000:10000] [--only open] [--repeats 3]

A size is SAMPLES:SHARDS; samples are rounded so that all shards are full. Stores of grids of 4x4 codes with
labels are written fast to a temporary folder, or to `--folder`, where they stay for the next run. Each
operation runs in a process of its own; the least CPU time of the repeats counts. A table has a row for each
operation and a column for each size: CPU milliseconds (for one batch, where there are many), and the MB of
anonymous memory by which the process grew at its peak.
`scale_measures.py` has the operations.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from scale_measures import OPERATIONS
from scale_stores import Size, write

MEASURES = Path(__file__).with_name("scale_measures.py")
DEFAULT_SIZES = ("10000:10", "100000:10", "100000:100", "100000:600", "1000000:100")


def size_of(text: str) -> Size:
    """Return the size in SAMPLES:SHARDS. Raises BadParameter for another text."""
    samples, _, shards = text.replace("_", "").partition(":")
    if not (samples.isdecimal() and shards.isdecimal()):
        raise click.BadParameter(f"expected SAMPLES:SHARDS such as 1000000:100, found {text!r}")
    return Size(int(samples), int(shards)).rounded()


def measured(
    name: str, store: Path, repeats: int, open_files: int | None, limits: dict[str, int]
) -> dict[str, float]:
    """Return the figures of the process with the least CPU time."""

    def limit() -> None:
        if open_files is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (open_files, open_files))

    line = [sys.executable, str(MEASURES), name, str(store), json.dumps(limits)]
    runs = [
        json.loads(subprocess.run(line, check=True, stdout=subprocess.PIPE, preexec_fn=limit).stdout)
        for _ in range(repeats)
    ]
    least: dict[str, float] = min(runs, key=lambda run: run["cpu"])
    return least


@click.command()
@click.option("--size", "sizes", multiple=True, default=DEFAULT_SIZES, show_default=True)
@click.option("--only", multiple=True, type=click.Choice(list(OPERATIONS)), help="Measure only these.")
@click.option("--repeats", default=3, show_default=True, help="Processes of each; the least CPU time counts.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where stores stay for the next run.")
@click.option("--hard-links", is_flag=True, help="Equal shards are one file with many names.")
@click.option("--open-files", type=int, help="The hard limit of open files that processes have.")
@click.option("--mappings", type=int, help="The most files that a process maps, instead of the system's.")
@click.option("--fit-codes", type=int, help="The most codes that a fit of the codec context takes.")
def main(
    sizes: tuple[str, ...],
    only: tuple[str, ...],
    repeats: int,
    folder: Path | None,
    hard_links: bool,
    open_files: int | None,
    **limits: int | None,
) -> None:
    """Print growth tables of CPU time and memory."""
    lowered = {name: most for name, most in limits.items() if most is not None}
    columns = [size_of(text) for text in sizes]
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in only or OPERATIONS}
    with tempfile.TemporaryDirectory() as temporary:
        for size in columns:
            store = write(folder or Path(temporary), size, hard_links=hard_links)
            for name, cells in rows.items():
                cells.append(measured(name, store, repeats, open_files, lowered))
    console = Console()
    for title, unit in (("CPU time, ms", "cpu"), ("memory, MB", "memory")):
        table = Table(title, *map(str, columns))
        for name, cells in rows.items():
            values = [cell[unit] * (1000 if unit == "cpu" else 1) for cell in cells]
            table.add_row(name, *(f"{value:,.2f}" if unit == "cpu" else f"{value:,.1f}" for value in values))
        console.print(table)


if __name__ == "__main__":
    main()
