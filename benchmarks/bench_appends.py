"""A benchmark: what an append of a few samples costs, as the store that it goes to grows.

    python benchmarks/bench_appends.py --work DIR [--samples 10000,100000,1000000] [--appended 64] [--json
    FILE]

Stores of random codes (8 x 8 of 391) with labels are written below `--work`, and stores of `--appended`
samples are appended to copies of them, which share their files by hard links. Of the repeats the median
counts; the first append, which may cut the samples table anew, stands in a column of its own. A recoding of
the whole store, which also gives a store of one conversion's shards, is the contender.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

import tokenstore

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "tests"))

from helpers.stores import random_codes, write_store  # noqa: E402

REPEATS = 7


def written(path: Path, samples: int, seed: int) -> Path:
    """Write a store of random codes and labels, unless it is there; return its path."""
    if not path.exists():
        labels = np.arange(samples, dtype=np.int32) % 10
        write_store(path, {"train": (random_codes(samples, (8, 8), 391, seed), labels)})
    return path


def seconds(call: Callable[[], object]) -> float:
    """Return the time that a call takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def nbytes_alone(path: Path) -> int:
    """Return the bytes of the files that a store shares with no other."""
    files = [file.stat() for file in path.rglob("*") if file.is_file()]
    return sum(file.st_size for file in files if file.st_nlink == 1)


def measured(work: Path, size: int, parts: list[Path]) -> list[float]:
    """Return the figures of a row of the table, for a store of some size."""
    store, grown, recoded = written(work / f"appends-{size}", size, size), work / "grown", work / "recoded"
    for path in (grown, recoded):
        shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(store, grown, copy_function=lambda source, target: Path(target).hardlink_to(source))
    times = [seconds(lambda part=part: tokenstore.append(grown, part, jobs=1)) for part in parts]  # type: ignore[misc]
    alone = nbytes_alone(grown) / 1e6
    recode = seconds(lambda: tokenstore.recode(grown, recoded, codec="bitpack", jobs=1))
    nbytes = sum(file.stat().st_size for file in store.rglob("*") if file.is_file()) / 1e6
    for path in (grown, recoded):
        shutil.rmtree(path)
    return [nbytes, times[0], statistics.median(times[1:]), alone, recode]


@click.command()
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option("--samples", default="10000,100000,1000000", show_default=True)
@click.option("--appended", default=64, show_default=True)
@click.option("--json", "as_json", type=click.Path(path_type=Path))
def main(work: Path, samples: str, appended: int, as_json: Path | None) -> None:
    """Measure all sizes and print a table."""
    parts = [written(work / f"part-{appended}-{number}", appended, number) for number in range(REPEATS + 1)]
    results: dict[str, Any] = {}
    table = Table("samples", "MB", "first append, s", "append, s", "MB written", "recode, s", box=MARKDOWN)
    for size in map(int, samples.split(",")):
        results[f"{size}"] = figures = measured(work, size, parts)
        table.add_row(f"{size:,}", *(f"{figure:.2f}" for figure in figures))
    Console().print(table)
    if as_json is not None:
        as_json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
