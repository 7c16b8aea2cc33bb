"""A benchmark: what a column of captions beside the tokens costs a random batch, and what it costs in bytes.

    python benchmarks/bench_columns.py --work DIR [--samples 50000] [--characters 80] [--json FILE]

A store of random codes (14 x 14 of 391) with captions of `--characters` is written below `--work`, and read
in batches of 256 in a full shuffle by one loader thread: tokens and labels alone, and with the captions.
Contenders take turns; of the repeats the least CPU time counts, which depends least on what else the machine
does.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

from tokenstore import TokenDataset, TokenLoader
from tokenstore.audit.info import info
from tokenstore.codecs import TEXT

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "tests"))

from helpers.stores import Samples, random_codes, write_store  # noqa: E402

BATCH_SIZE = 256
REPEATS = 5
CONTENDERS = {
    "tokens, labels": ("tokens", "labels"),
    "with captions": ("tokens", "labels", "caption"),
}
WORDS = ("a", "photo", "of", "the", "large", "small", "red", "blue", "green", "dog", "cat", "house", "near")


def written(path: Path, samples: int, characters: int) -> Path:
    """Write the store; return its path."""
    rng = np.random.default_rng(0)
    texts = np.empty(samples, object)
    for row in range(samples):
        texts[row] = " ".join(rng.choice(WORDS, 1 + characters // 3))[:characters]
    labels = np.zeros(samples, np.int32)
    codes = random_codes(samples, (14, 14), 391)
    split = Samples(codes, labels, {"caption": texts}, (), {"caption": TEXT})
    write_store(path, {"train": split})
    return path


def cpu_seconds(store: Path, columns: tuple[str, ...]) -> float:
    """Return the CPU seconds of an epoch, after one that is not counted."""
    loader = TokenLoader(
        TokenDataset(store, columns=columns), BATCH_SIZE, shuffle="full", num_threads=1, seed=1
    )
    for _ in loader:
        pass
    started = time.process_time()
    for _ in loader:
        pass
    return time.process_time() - started


@click.command()
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option("--samples", default=50_000, show_default=True)
@click.option("--characters", default=80, show_default=True)
@click.option("--json", "as_json", type=click.Path(path_type=Path))
def main(work: Path, samples: int, characters: int, as_json: Path | None) -> None:
    """Measure all contenders and print a table."""
    store = work / f"columns-{samples}-{characters}"
    if not store.exists():
        written(store, samples, characters)
    best = dict.fromkeys(CONTENDERS, float("inf"))
    for _ in range(REPEATS):
        for name, columns in CONTENDERS.items():
            best[name] = min(best[name], cpu_seconds(store, columns))
    arrays = info(store).arrays
    results: dict[str, Any] = {}
    table = Table("contender", "us of CPU a sample", "x of the rate without", "bytes a sample", box=MARKDOWN)
    for name, columns in CONTENDERS.items():
        nbytes = sum(arrays[f"train/{column}"].nbytes for column in columns) / samples
        ratio = best["tokens, labels"] / best[name]
        results[name] = {"us": best[name] / samples * 1e6, "ratio": ratio, "nbytes": nbytes}
        table.add_row(name, f"{best[name] / samples * 1e6:.2f}", f"{ratio:.2f}", f"{nbytes:.0f}")
    Console().print(table)
    if as_json is not None:
        as_json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
