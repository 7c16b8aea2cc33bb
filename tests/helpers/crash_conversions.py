"""A program of conversions and merges that kill themselves.

It reads lines `convert IMAGES OUT OPERATION` and `merge PARTS OUT OPERATION`, PARTS being a folder of parts,
and answers each with a wait status.

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

import torch

import tokenstore
from helpers.brightness import BrightnessTokenizer, write_grey_folder
from tokenstore.conversion import assembly
from tokenstore.conversion.convert import convert_source
from tokenstore.conversion.options import ConvertOptions
from tokenstore.sources import open_source

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


def _warm_up() -> None:
    """Convert and merge once in this process, so that every fork has the compiled codecs."""
    with tempfile.TemporaryDirectory() as folder:
        write_grey_folder(Path(folder, "images"), 1)
        source = open_source(Path(folder, "images"))
        part = replace(OPTIONS, part=(1, 1))
        convert_source(source, Path(folder, "out"), tokenizer=BrightnessTokenizer(), options=part)
        tokenstore.merge(Path(folder, "merged"), [Path(folder, "out")], jobs=1)


def main() -> None:
    """Answer the lines of standard input."""
    torch.set_num_threads(1)
    assembly.SAVE_SECONDS = 0.0
    _warm_up()
    gc.freeze()  # so that forks need not copy what they never use
    for line in sys.stdin:
        action, source, out, operation = line.split()
        child = os.fork()
        if child == 0:
            kill_at(int(operation))
            if action == "merge":
                tokenstore.merge(out, sorted(Path(source).iterdir()), jobs=1, resume=True)
            else:
                convert_source(
                    open_source(source), out, tokenizer=BrightnessTokenizer(), options=OPTIONS, resume=True
                )
            os._exit(0)
        print(os.waitpid(child, 0)[1], flush=True)


if __name__ == "__main__":
    main()
