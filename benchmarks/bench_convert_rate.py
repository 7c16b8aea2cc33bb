"""A benchmark: how many images a second become codes, and what of it a change of the code made.

    python benchmarks/bench_convert_rate.py IMAGES [--tokenizer default ...] [--checkout before=DIR ...]

Converts IMAGES with each tokenizer, by this checkout and by the others that are given (`git archive`, or a
worktree), each in a process of its own, in turn. Every process converts a few images first, so that its
start does not count. Of the repeats the least CPU time counts, which depends least on what else the machine
does; the rate is the best one. `same codes` compares with the first checkout of the table.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import numpy as np
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

import tokenstore

HERE = Path(__file__).parents[1]
FIRST = 64
"""The images that are converted before time is taken."""
PROGRAM = """
import json, resource, sys, time
import tokenstore

def cpu():
    users = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(user.ru_utime + user.ru_stime for user in users)

def convert(target, **options):
    started, used = time.perf_counter(), cpu()
    tokenizer = load_tokenizer(sys.argv[2])
    tokenstore.convert(sys.argv[1], target, tokenizer=tokenizer, on_error="skip", **options)
    return time.perf_counter() - started, cpu() - used

if __name__ == "__main__":
    from tokenstore.tokenizers import load_tokenizer
    few, whole = convert(sys.argv[3] + "-few", limit=int(sys.argv[4])), convert(sys.argv[3])
    print(json.dumps([of_all - of_few for of_all, of_few in zip(whole, few)]))
"""


def converted(program: Path, checkout: Path, images: Path, tokenizer: str, target: Path) -> list[float]:
    """Convert in a new process; return the seconds and the CPU seconds that all but the first images took."""
    command = [sys.executable, str(program), str(images), tokenizer, str(target), str(FIRST)]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    times: list[float] = json.loads(done.stdout.splitlines()[-1])
    return times


def codes_of(target: Path) -> np.ndarray:
    """Return all codes of a store, one after another."""
    store = tokenstore.open(target)
    return np.concatenate([store[split][:].ravel() for split in store.splits])


@click.command()
@click.argument("images", type=click.Path(path_type=Path, exists=True))
@click.option("--tokenizer", "tokenizers", multiple=True, default=("default",), show_default=True)
@click.option("--checkout", "others", multiple=True, metavar="NAME=DIR")
@click.option("--repeats", default=3, show_default=True)
def main(images: Path, tokenizers: tuple[str, ...], others: tuple[str, ...], repeats: int) -> None:
    """Convert IMAGES by every checkout and tokenizer, in turn, and print a table."""
    checkouts = {name: Path(folder) for name, _, folder in (other.partition("=") for other in others)}
    checkouts["this checkout"] = HERE
    best: dict[tuple[str, str], np.ndarray] = {}
    same: dict[tuple[str, str], float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        program = Path(scratch, "program.py")
        program.write_text(PROGRAM)
        for repeat in range(repeats):
            for tokenizer in tokenizers:
                first = None
                for name, checkout in checkouts.items():
                    target = Path(scratch, f"{repeat}-{len(tokenizer)}-{name}".replace(" ", "-"))
                    times = np.array(converted(program, checkout, images, tokenizer, target))
                    best[tokenizer, name] = np.minimum(times, best.get((tokenizer, name), np.inf))
                    codes = codes_of(target)
                    first = codes if first is None else first
                    same[tokenizer, name] = float((codes == first).mean())
        store = tokenstore.open(target)
        count = sum(len(store[split]) for split in store.splits) - FIRST
    columns = ("tokenizer", "checkout", "images/s", "ms of CPU an image", "x of CPU", "same codes")
    table = Table(*columns, title=f"{count:,} images", box=MARKDOWN)
    for (tokenizer, name), (seconds, cpu) in best.items():
        faster = best[tokenizer, next(iter(checkouts))][1] / cpu
        cells = f"{count / seconds:.1f}", f"{cpu / count * 1e3:.1f}", f"{faster:.2f}"
        table.add_row(tokenizer, name, *cells, f"{same[tokenizer, name]:.4%}")
    Console().print(table)


if __name__ == "__main__":
    main()
