"""A benchmark: how fast loaders read shuffled batches, from how many bytes, in how much memory.

    python benchmarks/bench_loaders.py SEIT --work DIR [--samples 50000] [--environments DIR]
        [--make-environments] [--only NAME] [--seconds 3] [--repeats 3] [--batch-size 256]

SEIT is a folder in the layout of the SeiT release; the samples of all its splits are written again and again
until there are `--samples` of them. Every contender stores the same samples in its own layout below
`--work`, where later runs find them, and reads shuffled batches from the page cache: in one process with one
thread as far as it lets one choose, and with two workers: threads where it has them, else processes.

Other projects' loaders run in environments of their own: `--environments` names the folder, and
`--make-environments` makes what is missing there. FFCV's build wants the headers of OpenCV and libturbojpeg
(Debian: `apt-get install libopencv-dev libturbojpeg0-dev`). What cannot take part is named with the reason.

Each measurement is a process of its own. Samples/s count after one epoch, or `--seconds` of it, of warming
up. The first batch counts from after the import of the contender's package, opening included. Memory is that
after the import and at its highest, to which what worker processes have to themselves is added; mapped files
are part of both. Contenders take turns; of the repeats the best number counts. In the first round an epoch,
or a minute of one, is compared sample for sample with what was written.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from loader_contenders import (
    CONTENDERS,
    ENVIRONMENTS,
    Contender,
    NotRunError,
    call,
    make_environment,
    python_of,
    tile,
    warm_nbytes,
)
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

WORKERS = {0: "1 process", 2: "2 workers"}
WRITE_SECONDS = 7200
CHECK_SECONDS = 60
GRACE_SECONDS = 120
"""The seconds that a contender may take beyond its measurement to start, open, and end."""
MB = 10**6


@dataclass
class Result:
    """The best numbers measured of a contender, by workers."""

    contender: Contender
    bytes_a_sample: float = 0.0
    best: dict[int, dict[str, Any]] = field(default_factory=dict)
    remarks: dict[str, None] = field(default_factory=dict)
    """The remarks in the order in which they were made, each once."""

    def take(self, workers: int, numbers: dict[str, Any]) -> None:
        """Keep the better of each number, and each remark once."""
        numbers["peak"] += numbers["workers"]
        best = self.best.setdefault(workers, numbers)
        best["rate"] = max(best["rate"], numbers["rate"])
        for name in ("first_batch", "imported", "peak", "mapped"):
            best[name] = min(best[name], numbers[name])


def write_files(contender: Contender, python: Path, specification: dict[str, Any]) -> Path:
    """Write the contender's files unless they exist. Raises NotRunError."""
    files = Path(specification["source"]).parent / contender.files
    if not files.exists():
        unfinished = files.with_name(f"{files.name}-unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        call(python, "write", {**specification, "files": str(unfinished)}, WRITE_SECONDS)
        unfinished.replace(files)
    return files


def measure(result: Result, python: Path, specification: dict[str, Any], is_first: bool) -> None:
    """Measure one turn of a contender, with each number of workers."""
    for workers, name in WORKERS.items():
        given = {**specification, "workers": workers}
        result.bytes_a_sample = warm_nbytes(Path(given["files"])) / given["samples"]
        result.take(workers, call(python, "read", given, 2 * given["seconds"] + GRACE_SECONDS))
        if is_first:
            checked = call(python, "check", given, CHECK_SECONDS + GRACE_SECONDS)
            whole = checked["checked"] >= given["samples"] - checked["missing"]
            for what, count in (
                ("missing", checked["missing"]),
                ("repeated", checked["repeated"]),
                ("of the epoch checked", 0 if whole else checked["checked"]),
            ):
                if count:
                    result.remarks[f"{name}: {count:,} samples {what}"] = None


def print_table(console: Console, results: list[Result], title: str) -> None:
    """Print a row a contender; ratios are to the first row in one process."""
    numbers = ["bytes/sample", "samples/s", "x", "first batch, ms", "import, MB", "peak, MB", "mapped, MB"]
    table = Table("contender", "shuffle", *numbers, title=title, box=MARKDOWN)
    table.caption = f"{' / '.join(WORKERS.values())}; x: to {results[0].contender.name} in 1 process"
    for column in table.columns:
        column.no_wrap = True
        column.justify = "left" if column.header in ("contender", "shuffle") else "right"
    limit = results[0].best[0]["rate"]
    for result in (result for result in results if result.best):
        best = [result.best[workers] for workers in WORKERS if workers in result.best]
        cells = {
            "rate": [f"{one['rate']:,.0f}" for one in best],
            "x": [f"{one['rate'] / limit:.3f}" for one in best],
            "first_batch": [f"{one['first_batch'] * 1e3:,.0f}" for one in best],
            "imported": [f"{min(one['imported'] for one in best) / MB:,.0f}"],
            "peak": [f"{one['peak'] / MB:,.0f}" for one in best],
            "mapped": [f"{one['mapped'] / MB:,.0f}" for one in best],
        }
        of_both = [" / ".join(both) for both in cells.values()]
        shuffle = result.contender.shuffle
        table.add_row(result.contender.name, shuffle, f"{result.bytes_a_sample:,.0f}", *of_both)
    console.print(table)


@click.command()
@click.argument("seit", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--work", required=True, type=click.Path(path_type=Path), help="Folder of all files that are read."
)
@click.option("--samples", default=50_000, show_default=True)
@click.option("--environments", type=click.Path(path_type=Path), help="Folder of the peers' environments.")
@click.option("--make-environments", is_flag=True, help="Make those that are missing.")
@click.option("--only", multiple=True, help="Only contenders in whose name this occurs, and the first.")
@click.option("--seconds", default=3.0, show_default=True, help="A measurement, and its warming up at most.")
@click.option("--repeats", default=3, show_default=True)
@click.option("--batch-size", default=256, show_default=True)
def main(
    seit: Path,
    work: Path,
    samples: int,
    environments: Path | None,
    make_environments: bool,
    only: tuple[str, ...],
    repeats: int,
    **reading: Any,
) -> None:
    """Measure all loaders on the samples of SEIT and print a table."""
    console = Console(width=170)
    home = work.absolute() / str(samples)
    home.mkdir(parents=True, exist_ok=True)
    distinct = tile(seit, home / "source", samples)
    fixed = {
        "source": str(home / "source"),
        "samples": samples,
        "distinct": distinct,
        **reading,
        "check_seconds": CHECK_SECONDS,
        "workers": 0,
        "seed": 0,
    }
    first, *others = CONTENDERS
    selected = [one for one in others if not only or any(word.lower() in one.name.lower() for word in only)]
    results = [Result(one) for one in (first, *selected)]
    failed: dict[str, str] = {}
    for turn in range(repeats):
        for result in results:
            one = result.contender
            if one.name in failed:
                continue
            console.print(f"{turn + 1}/{repeats} {one.name}", style="dim")
            try:
                if make_environments and environments is not None and one.environment in ENVIRONMENTS:
                    make_environment(one.environment, environments)
                python = python_of(one.environment, environments)
                given = {**fixed, "module": one.module, "variant": one.variant, "codes": one.yields_codes}
                files = write_files(one, python, given)
                measure(result, python, {**given, "files": str(files)}, turn == 0)
            except NotRunError as error:
                failed[one.name] = str(error)
    title = f"{samples:,} samples, batches of {reading['batch_size']}"
    print_table(console, results, title)
    for result in results:
        version = next((best["version"] for best in result.best.values()), None)
        remarks = [
            *result.remarks,
            *([failed[result.contender.name]] if result.contender.name in failed else []),
        ]
        if remarks or result.contender.environment:
            console.print(f"{result.contender.name} {version or ''}: {'; '.join(remarks) or 'as written'}")


if __name__ == "__main__":
    main()
