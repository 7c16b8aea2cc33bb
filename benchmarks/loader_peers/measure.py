"""A program that writes, measures or checks one contender, in a process of its own.

    python measure.py write SPECIFICATION RESULT
    python measure.py read SPECIFICATION RESULT
    python measure.py check SPECIFICATION RESULT

Runs in whatever environment has the contender's package, so it needs only the standard library and numpy.
SPECIFICATION is JSON; RESULT is the JSON file that is written. A contender is a module beside this one:

    PACKAGE: str                                   the distribution whose version is reported
    write(source, files, variant)                  the same samples in the contender's own layout
    epochs(files, variant, batch_size, workers, seed) -> epoch number -> iterator of batches

A batch is (tokens (B, ...), labels (B,)). `source` holds codes.npy, uint16 (N, H, W), and labels.npy.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import itertools
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Batch = tuple[Any, Any]


def memory() -> dict[str, int]:
    """Return bytes of this process: its peak, and, on Linux, the mapped files at this moment.

    The kernel's own mark is read because `getrusage` counts the memory of the process that started this one.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "files": 0}
    fields = dict(line.split(":", 1) for line in lines)
    return {
        name: int(fields[field].split()[0]) * 1024
        for name, field in (("peak", "VmHWM"), ("files", "RssFile"))
    }


def worker_memory() -> int:
    """Return the bytes that the descendants of this process have to themselves at this moment. Linux."""
    parents: dict[int, int] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # the process has ended meanwhile
    family = {os.getpid()}
    while children := {child for child, parent in parents.items() if parent in family} - family:
        family |= children
    private = 0
    for process in family - {os.getpid()}:
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
            private += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))
    return private


def stream(epoch: Callable[[int], Iterator[Batch]]) -> Iterator[Batch]:
    """Yield the batches of one epoch after the other."""
    return itertools.chain.from_iterable(map(epoch, itertools.count()))


def read(module: Any, task: dict[str, Any]) -> dict[str, Any]:
    """Return the seconds to the first batch, and samples a second after a warm-up.

    The warm-up is an epoch, or as many seconds as are measured.
    """
    imported = memory()
    started = time.perf_counter()
    epoch = module.epochs(Path(task["files"]), *reading(task))
    batches = stream(epoch)
    _, labels = next(batches)
    first = time.perf_counter() - started
    seconds, warm = task["seconds"], len(labels)
    while warm < task["samples"] and time.perf_counter() - started < seconds:
        warm += len(next(batches)[1])
    seen, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        seen += len(next(batches)[1])
    finished = memory()
    return {
        "rate": seen / elapsed,
        "first_batch": first,
        "imported": imported["peak"],
        "peak": finished["peak"],
        "mapped": finished["files"],
        "workers": worker_memory(),
    }


def reading(task: dict[str, Any]) -> tuple[str, int, int, int]:
    """Return how a contender is read: variant, batch size, workers, seed."""
    return task["variant"], task["batch_size"], task["workers"], task["seed"]


class Fingerprints:
    """A table that knows every distinct sample by one number over its codes and label, or its label alone."""

    def __init__(self, source: Path, distinct: int, with_codes: bool, seed: int) -> None:
        codes = np.load(source / "codes.npy", mmap_mode="r")[:distinct]
        labels = np.load(source / "labels.npy", mmap_mode="r")[:distinct]
        length = codes[0].size if with_codes else 0
        self.weights = np.random.default_rng(seed).integers(0, 2**64, 1 + length, np.uint64)
        self.known, self.kinds = np.unique(self._of(codes, labels), return_inverse=True)
        if with_codes and len(self.known) < distinct:
            raise ValueError(f"{source}: expected {distinct} different samples, found {len(self.known)}")

    def _of(self, tokens: Any, labels: Any) -> np.ndarray:
        length = len(self.weights) - 1
        rows = np.asarray(tokens).reshape(len(labels), -1)[:, :length].astype(np.uint64)
        if rows.shape[1] != length:
            raise ValueError(f"WRONG: expected {length} codes a sample, found {rows.shape[1]}")
        return rows @ self.weights[:-1] + np.asarray(labels).reshape(-1).astype(np.uint64) * self.weights[-1]

    def kinds_of(self, tokens: Any, labels: Any) -> np.ndarray:
        """Return which known sample each of a batch is, (B,). Raises ValueError for an unknown one."""
        numbers = self._of(tokens, labels)
        kinds = np.minimum(np.searchsorted(self.known, numbers), len(self.known) - 1)
        if (wrong := self.known[kinds] != numbers).any():
            raise ValueError(
                f"WRONG: {wrong.sum()} of {len(numbers)} samples of a batch have other codes or labels"
            )
        return kinds


def check(module: Any, task: dict[str, Any]) -> dict[str, Any]:
    """Compare the first epoch, or as much as there is time for, with what was written.

    Raises ValueError for wrong codes or labels, and for an order that is as written or the same every epoch.
    """
    known = Fingerprints(Path(task["source"]), task["distinct"], task["codes"], task["seed"])
    epoch = module.epochs(Path(task["files"]), *reading(task))
    started, whole, parts = time.perf_counter(), True, []
    for batch in epoch(0):
        parts.append(known.kinds_of(*batch))
        if time.perf_counter() - started > task["check_seconds"]:
            whole = False
            break
    kinds = np.concatenate(parts)
    as_written = np.resize(known.kinds, task["samples"])
    following = np.flatnonzero(np.diff(np.argsort(known.kinds)[kinds]) == 1)
    if task["codes"] and len(following) > 0.05 * len(kinds):
        raise ValueError("NOT SHUFFLED: samples follow each other as they were written")
    if whole and np.array_equal(known.kinds_of(*next(epoch(1))), parts[0]):
        raise ValueError("NOT SHUFFLED ANEW: the second epoch begins as the first")
    off = np.bincount(kinds, minlength=len(known.known)) - np.bincount(as_written)
    return {
        "checked": len(kinds),
        "missing": int(-off[off < 0].sum()) if whole else 0,
        "repeated": int(off[off > 0].sum()),
    }


def main() -> None:
    """Do what the command line says."""
    action, specification, result = sys.argv[1:]
    task = json.loads(specification)
    module = importlib.import_module(task["module"])
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(max(1, task["workers"]))
    if action == "write":
        module.write(Path(task["source"]), Path(task["files"]), task["variant"])
        answer = {}
    else:
        answer = (read if action == "read" else check)(module, task)
    answer["version"] = importlib.metadata.version(module.PACKAGE)
    Path(result).write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
