"""A program of conversions, and of operations on stores, that kill themselves.

It reads lines `ACTION SOURCE OUT OPERATION`, where SOURCE is a folder of images, of parts, of stores, a
store, or what else an action needs (see `ACTIONS`), and answers each with a wait status.

Every one of them runs in a fork of this process, which has everything imported, and gets SIGKILL at its
OPERATION-th file operation: before it, so that a run with OPERATION + 1 dies after it.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tokenstore
from helpers.brightness import BrightnessTokenizer, write_grey_folder
from tokenstore.conversion import assembly
from tokenstore.conversion.convert import convert_source
from tokenstore.conversion.options import ConvertOptions
from tokenstore.sources import open_source
from tokenstore.writing import gathered

OPTIONS = ConvertOptions(workers=0, chunk_samples=4, shard_samples=8, batch_size=3, on_error="skip")


def kill_at(operation: int) -> None:
    """Count the calls that change the disk, and die at one of them."""
    done = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal done
            done += 1
            if done == operation:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    # subtle: a killed process loses nothing that was written, so the wait for the disk can be left out
    os.fsync = counted(lambda descriptor: None)
    os.link = counted(os.link)
    os.unlink = counted(os.unlink)
    os.rmdir = counted(os.rmdir)
    Path.replace = counted(Path.replace)  # type: ignore[method-assign]


def write_batches(out: str, codec: str) -> None:
    """Write two splits in batches of three samples, from where an earlier writer stood."""
    codes = np.arange(46 * 4, dtype=np.uint8).reshape(46, 2, 2)
    settings = {"grid": (2, 2), "codebook_size": 256, "chunk_samples": 4, "shard_samples": 8, "codec": codec}
    with tokenstore.write(out, resume=True, **settings) as writer:  # type: ignore[call-overload]
        for split, samples in (("train", 21), ("val", 5)):
            for start in range(writer.samples.get(split, 0), samples, 3):
                rows = slice(start, min(start + 3, samples))
                texts = [f"text {row}" for row in range(rows.start, rows.stop)]
                columns = {"text": texts} if split == "train" else {}
                writer.add(codes[rows], np.arange(rows.start, rows.stop), split=split, columns=columns)


def export(source: str, out: str) -> None:
    """Export the store `STORE@LAYOUT`, in files of three rows where the layout has several."""
    store, _, layout = source.partition("@")
    rows = 3 if layout in ("jsonl", "parquet", "webdataset") else None
    tokenstore.export(store, out, to=layout, columns=["labels"], rows_per_file=rows, resume=True)


def _warm_up() -> None:
    """Convert, merge and write once in this process, so that every fork has the compiled codecs."""
    with tempfile.TemporaryDirectory() as folder:
        write_grey_folder(Path(folder, "images"), 1)
        source = open_source(Path(folder, "images"))
        part = replace(OPTIONS, part=(1, 1))
        convert_source(source, Path(folder, "out"), tokenizer=BrightnessTokenizer(), options=part)
        tokenstore.merge(Path(folder, "merged"), [Path(folder, "out")], jobs=1)
        tokenstore.select(Path(folder, "merged"), Path(folder, "selected"), where="row < 2", jobs=1)
        write_batches(str(Path(folder, "written")), "zstd")


def convert(source: str, out: str) -> None:
    """Convert a folder of images."""
    tokenizer = BrightnessTokenizer()
    convert_source(open_source(source), out, tokenizer=tokenizer, options=OPTIONS, resume=True)


ACTIONS: dict[str, Callable[[str, str], Any]] = {
    "convert": convert,
    "merge": lambda source, out: tokenstore.merge(out, sorted(Path(source).iterdir()), jobs=1, resume=True),
    "write": lambda codec, out: write_batches(out, codec),
    "export": export,
    "select": lambda source, out: tokenstore.select(source, out, where="row != 9", jobs=1, resume=True),
    "relabel": lambda source, out: tokenstore.relabel(out, class_map={"class-0": "class-1"}),
    "append": lambda source, out: tokenstore.append(out, source, jobs=1),
    "append-images": lambda source, out: tokenstore.append(
        out, source, tokenizer=BrightnessTokenizer(), workers=0, jobs=1
    ),
}
"""The functions of a source and a place; `relabel` and `append` change the store that is there."""


def main() -> None:
    """Answer the lines of standard input."""
    torch.set_num_threads(1)
    assembly.SAVE_SECONDS = gathered.SAVE_SECONDS = 0.0
    _warm_up()
    gc.freeze()  # so that forks need not copy what they never use
    for line in sys.stdin:
        action, source, out, operation = line.split()
        child = os.fork()
        if child == 0:
            kill_at(int(operation))
            ACTIONS[action](source, out)
            os._exit(0)
        print(os.waitpid(child, 0)[1], flush=True)


if __name__ == "__main__":
    main()
