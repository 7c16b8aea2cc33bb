"""The operations that `bench_scale.py` measures, by name, and the process that measures one of them.

    python benchmarks/scale_measures.py NAME STORE [LIMITS]

LIMITS is a JSON object: the process maps at most so many files ("mappings"), and fits the codec `context`
to at most so many codes ("fit_codes"). An operation is prepared outside the clock and returns what the clock
runs. To add one, write a function below with the decorator `operation`: it takes the store's path and an
empty folder for what it writes.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias
from unittest import mock

import numpy as np
import scale_stores

import tokenstore
from tokenstore.codecs.context import fitting
from tokenstore.format import FileRecord, samples_table
from tokenstore.storage import mapping, open_storage
from tokenstore.writing import StoreSpec, StoreWriter, codec_choice
from tokenstore.writing.encoded import encode_rows
from tokenstore.writing.journal import Entry, LocalJournal
from tokenstore.writing.rewrite import spec_of

BATCH = 256
BATCHES = 200
PART_ROWS = 2**18
"""The rows of an array of codes that are written at once."""
Action: TypeAlias = Callable[[], object]
Prepare: TypeAlias = Callable[[Path, Path], Action]

OPERATIONS: dict[str, tuple[Prepare, int]] = {}
"""The operations by name: how each is prepared, and how often its action does the thing that is timed."""


def operation(name: str, times: int = 1) -> Callable[[Prepare], Prepare]:
    """Add an operation whose action does `times` times what its row of the table is called after."""

    def add(prepare: Prepare) -> Prepare:
        OPERATIONS[name] = prepare, times
        return prepare

    return add


@operation("open")
def prepare_open(store: Path, scratch: Path) -> Action:
    """Open the store and its split, as a loader's process does."""
    tokenstore.open(tiny_store(scratch))["train"]
    return lambda: tokenstore.open(store)["train"]


@operation("info")
def prepare_info(store: Path, scratch: Path) -> Action:
    """Ask what the store says about itself."""
    tokenstore.info(tiny_store(scratch))
    return lambda: tokenstore.info(store)


@operation("first batch")
def prepare_first_batch(store: Path, scratch: Path) -> Action:
    """Read one random batch of an open store, with labels: every shard of it is opened."""
    batches = random_batches(store, 1)
    read_batches(tokenstore.open(tiny_store(scratch))["train"], [np.arange(1)])
    split = tokenstore.open(store)["train"]
    return lambda: read_batches(split, batches)


@operation("random batch", times=BATCHES)
def prepare_random_batches(store: Path, scratch: Path) -> Action:
    """Read batches of a full shuffle, with labels, once every chunk was touched."""
    split = tokenstore.open(store)["train"]
    for start in range(0, len(split), 2**16):
        rows = np.arange(start, min(start + 2**16, len(split)))
        read_batches(split, [rows])
    read_batches(split, random_batches(store, BATCHES, seed=1))
    batches = random_batches(store, BATCHES)
    return lambda: read_batches(split, batches)


@operation("verify")
def prepare_verify(store: Path, scratch: Path) -> Action:
    """Check every byte of the store."""
    tokenstore.verify(tiny_store(scratch))
    return lambda: tokenstore.verify(store)


@operation("stats")
def prepare_stats(store: Path, scratch: Path) -> Action:
    """Count all codes and labels."""
    tokenstore.stats(tiny_store(scratch))
    return lambda: tokenstore.stats(store)


@operation("copy")
def prepare_copy(store: Path, scratch: Path) -> Action:
    """Copy the store to another folder."""
    tokenstore.copy(tiny_store(scratch), scratch / "warm")
    return lambda: tokenstore.copy(store, scratch / "copy")


@operation("recode")
def prepare_recode(store: Path, scratch: Path) -> Action:
    """Write the codes again, in shards of the size that a conversion gives them."""
    tokenstore.recode(tiny_store(scratch), scratch / "warm", codec="bitpack")
    return lambda: tokenstore.recode(store, scratch / "recoded", codec="bitpack")


@operation("recode, context")
def prepare_context(store: Path, scratch: Path) -> Action:
    """Fit the context codec to a sample of the codes, and write all with it."""
    tokenstore.recode(tiny_store(scratch), scratch / "warm", codec="context")
    return lambda: tokenstore.recode(store, scratch / "recoded", codec="context")


def random_batches(store: Path, count: int, seed: int = 0) -> list[np.ndarray]:
    """Draw batches of row numbers of a store's training split."""
    samples = len(tokenstore.open(store)["train"])
    rng = np.random.default_rng(seed)
    return [rng.integers(0, samples, BATCH) for _ in range(count)]


def read_batches(split: tokenstore.SplitReader, batches: list[np.ndarray]) -> None:
    """Read codes and labels of batches."""
    for rows in batches:
        split.read("tokens", rows)
        split.read("labels", rows)


@operation("resume")
def prepare_resume(store: Path, scratch: Path) -> Action:
    """Go on with a conversion of which every shard is written: read its journal."""
    resumed(unfinished(tiny_store(scratch), scratch / "tiny"))
    out = unfinished(store, scratch / "out")
    return lambda: resumed(out)


@operation("commit")
def prepare_commit(store: Path, scratch: Path) -> Action:
    """Finish a conversion of which every shard is written."""
    resumed(unfinished(tiny_store(scratch), scratch / "tiny")).commit()
    return resumed(unfinished(store, scratch / "out")).commit


@operation("merge of 3 parts")
def prepare_merge(store: Path, scratch: Path) -> Action:
    """Merge three conversions of a part each; they have the codes of the store, without labels."""
    tokenstore.merge(scratch / "warm", converted_parts(tiny_store(scratch), scratch / "tiny"))
    parts = converted_parts(store, scratch)
    return lambda: tokenstore.merge(scratch / "merged", parts)


def converted_parts(store: Path, folder: Path) -> list[Path]:
    """Convert the codes of a store as an array, in three parts."""
    split = tokenstore.open(store)["train"]
    tokens, source = split.array("tokens").streamed(), folder / "codes.npy"
    folder.mkdir(exist_ok=True)
    codes = np.lib.format.open_memmap(source, "w+", tokens.layout.dtype, tokens.layout.shape)
    for start in range(0, len(codes), PART_ROWS):
        stop = min(start + PART_ROWS, len(codes))
        codes[start:stop] = tokens.read_range(start, stop)
    codes.flush()
    parts = [folder / f"part-{number}" for number in range(1, 4)]
    for number, part in enumerate(parts, 1):
        tokenstore.convert(source, part, part=(number, len(parts)), codebook_size=scale_stores.CODEBOOK_SIZE)
    return parts


def unfinished(store: Path, out: Path) -> tuple[StoreSpec, Path]:
    """Write the conversion of a store as it is before the commit; its shards are links."""
    opened = tokenstore.open(store)
    layout = opened["train"].arrays["tokens"].layout
    spec = replace(spec_of(opened), shard_samples=layout.shard_samples)
    with StoreWriter(open_storage(out), spec):  # which writes what it is of
        pass
    shards: dict[int, dict[str, FileRecord]] = {}
    for path, record in opened.files.records():
        _, mark, shard = path.partition("/c/")
        if mark:
            shards.setdefault(int(shard.partition("/")[0]), {})[path] = record
            (out / path).parent.mkdir(parents=True, exist_ok=True)
            (out / path).hardlink_to(store / path)
    journal = LocalJournal(out, "train")
    samples = layout.shard_samples
    positions = np.arange(samples)
    rows, _ = encode_rows([samples_table(positions, positions.astype(str).tolist(), None, None)])
    with mock.patch("os.fsync"):
        for shard, files in sorted(shards.items()):
            journal.save_rows(shard, rows)
            journal.append(shard, Entry(samples, (shard + 1) * samples, None, (), files))
    return spec, out


def resumed(conversion: tuple[StoreSpec, Path]) -> StoreWriter:
    """Go on with a conversion."""
    spec, out = conversion
    writer = StoreWriter(open_storage(out), spec, resume=True)
    writer.split("train", len(list((out / "train/tokens/c").iterdir())) * (spec.shard_samples or 1))
    return writer


def tiny_store(folder: Path) -> Path:
    """Write a store of one shard to warm up on: the clock waits for no import and no compiler."""
    return scale_stores.write(folder, scale_stores.Size(64, 1))


class Memory(threading.Thread):
    """The peak of this process's anonymous memory, in MB, looked at every few milliseconds.

    Pages of mapped files are not counted: the system takes them back when it needs them.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._over = threading.Event()
        self.peak = self.now()

    @staticmethod
    def now() -> float:
        """Return the anonymous memory that this process has now."""
        status = Path("/proc/self/status")
        if not status.exists():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
        return int(status.read_text().split("RssAnon:")[1].split()[0]) / 1000

    def run(self) -> None:
        """Look until `stop`."""
        while not self._over.wait(0.01):
            self.peak = max(self.peak, self.now())

    def stop(self) -> float:
        """End and return the peak."""
        self._over.set()
        self.join()
        return max(self.peak, self.now())


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of its children that have ended."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def limit(mappings: int | None = None, fit_codes: int | None = None) -> None:
    """Lower limits of the code in this process."""
    if mappings is not None:
        mapping._unused = deque([None] * mappings)
    if fit_codes is not None:
        fitting.MAX_FIT_CODES = codec_choice.MAX_FIT_CODES = fit_codes
        codec_choice._MOST_FIT_CODES = 2 * fit_codes


def main(name: str, store: str, limits: str = "{}") -> None:
    """Measure one operation, and print CPU seconds, seconds and MB of memory as JSON."""
    prepare, times = OPERATIONS[name]
    limit(**json.loads(limits))
    with tempfile.TemporaryDirectory(dir=Path(store).parent) as scratch:
        action = prepare(Path(store), Path(scratch))
        before = Memory.now()
        memory = Memory()
        memory.start()
        cpu, started = cpu_seconds(), time.perf_counter()
        result = action()
        cpu, seconds = cpu_seconds() - cpu, time.perf_counter() - started
        peak = memory.stop()
        del result
    print(json.dumps({"cpu": cpu / times, "seconds": seconds / times, "memory": peak - before}))


if __name__ == "__main__":
    main(*sys.argv[1:])
