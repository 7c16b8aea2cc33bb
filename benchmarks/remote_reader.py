"""One measured process of `bench_remote.py`: it reads a store and prints each result as a line of JSON.

The first line of its standard input is JSON: the path of a store, its storage options, and what to read.
After each result it waits for another line, so that whoever started it can count what was asked of the
storage.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tokenstore import TokenDataset, TokenLoader

Result = dict[str, Any]


def epoch(loader: TokenLoader, started: float) -> Result:
    """Return samples a second of an epoch, and after its first batch; seconds to that batch from `started`.

    `cpu` are the seconds that all threads of this process computed.
    """
    begun, computed = time.perf_counter(), time.process_time()
    seen = 0
    for number, (tokens, _) in enumerate(loader):
        if not number:
            first, first_samples = time.perf_counter(), len(tokens)
        seen += len(tokens)
    ended = time.perf_counter()
    if seen != len(loader.dataset):
        raise ValueError(f"WRONG: an epoch of {seen} samples, expected {len(loader.dataset)}")
    return {
        "first_batch": first - started,
        "rate": seen / (ended - begun),
        "sustained": (seen - first_samples) / (ended - first),
        "cpu": time.process_time() - computed,
    }


def epochs(task: dict[str, Any]) -> Iterator[Result]:
    """Yield the result of a first epoch, opening included in its first batch, then means of later ones.

    At least one later epoch is read, and as many as begin within so many `seconds`.
    """
    started = time.perf_counter()
    loader = TokenLoader(
        opened(task), task["batch_size"], shuffle=task["shuffle"], num_threads=task["threads"]
    )
    yield epoch(loader, started)
    begun, later = time.perf_counter(), []
    while not later or time.perf_counter() - begun < task["seconds"]:
        later.append(epoch(loader, time.perf_counter()))
    yield {
        "rate": statistics.harmonic_mean([one["rate"] for one in later]),
        "cpu": statistics.mean([one["cpu"] for one in later]),
        "epochs": len(later),
    }


def single_samples(task: dict[str, Any]) -> Iterator[Result]:
    """Yield the seconds to a first sample, opening included, then the median of `count` random ones."""
    started = time.perf_counter()
    dataset = opened(task)
    row_numbers = np.random.default_rng(0).choice(len(dataset), task["count"] + 1, replace=False).tolist()
    dataset[row_numbers[0]]
    yield {"seconds": time.perf_counter() - started}
    seconds = []
    for sample in row_numbers[1:]:
        started = time.perf_counter()
        dataset[sample]
        seconds.append(time.perf_counter() - started)
    yield {"seconds": statistics.median(seconds), "count": task["count"]}


def opened(task: dict[str, Any]) -> TokenDataset:
    """Open the data set."""
    return TokenDataset(
        task["path"], storage_options=task.get("storage_options"), cache_dir=task.get("cache_dir")
    )


def peak_nbytes() -> int:
    """Return the bytes of this process's memory at its highest, mapped files included. Linux."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024


def main() -> None:
    """Read the task from standard input and measure."""
    task = json.loads(sys.stdin.readline())
    for result in {"epochs": epochs, "single_samples": single_samples}[task["read"]](task):
        print(json.dumps({**result, "peak": peak_nbytes()}), flush=True)
        sys.stdin.readline()


if __name__ == "__main__":
    main()
