"""The decode processes: how they start and are interrupted, and what a source of one's own may give them."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.brightness import write_grey_folder
from helpers.waiting import HANG, wait_until
from PIL import Image

from tokenstore.errors import SourceError, WorkerError
from tokenstore.sources import open_source
from tokenstore.sources.decoding import DecodePool, decode_in_order, decode_tasks
from tokenstore.sources.images import ImageOptions, PixelDecoder

PROGRAM = """
import sys
from tokenstore.sources import open_source
from tokenstore.sources.decoding import decode_in_order
from tokenstore.sources.images import ImageOptions, PixelDecoder

if __name__ == "__main__":
    split = open_source(sys.argv[1]).splits["train"]
    try:
        list(decode_in_order(split, 0, len(split), PixelDecoder(ImageOptions(8)), 2))
    except KeyboardInterrupt:
        sys.exit(130)
"""
SLOW_START = """
import os, pathlib, sys, time
if "--multiprocessing-fork" in sys.orig_argv:
    pathlib.Path(__file__).with_name(f"starting-{os.getpid()}").touch()
    time.sleep(3600)
"""


class LosesImages:
    """A split of three samples whose request ends after two."""

    def __len__(self) -> int:
        return 3

    def request(self, start: int, stop: int) -> LosesImages:
        return self

    def read(self) -> Iterator[bytes]:
        image = io.BytesIO()
        Image.new("RGB", (8, 8)).save(image, "PNG")
        yield from [image.getvalue()] * 2


def test_a_request_that_gives_fewer_images_is_refused() -> None:
    split: Any = LosesImages()
    with pytest.raises(
        SourceError, match=r"samples 0 to 2: expected 3 images of the source's request, found 2"
    ):
        list(decode_in_order(split, 0, 3, PixelDecoder(ImageOptions(8)), 0))


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
def test_no_batch_of_a_pool_that_another_thread_closed_is_taken_for_images(tmp_path: Path) -> None:
    write_grey_folder(tmp_path, 2)
    split: Any = open_source(tmp_path).splits["train"]
    pool = DecodePool(PixelDecoder(ImageOptions(8)), 1)
    batches = pool.decode(decode_tasks(split, 0, 6, samples=2))
    first = next(batches)
    pool.close()
    with pytest.raises(WorkerError):
        next(batches)
    with pytest.raises(WorkerError):
        next(pool.decode(decode_tasks(split, 0, 6, samples=2)))
    assert first.inputs[0].max() == first.inputs[0].min()  # the memory of a batch in use stays


def test_ctrl_c_while_processes_start_ends_them_at_once_and_prints_nothing(tmp_path: Path) -> None:
    write_grey_folder(tmp_path / "images", 2)
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "sitecustomize.py").write_text(SLOW_START)
    paths = [str(tmp_path), *sys.path]
    process = subprocess.Popen(
        [sys.executable, "program.py", "images"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    wait_until(lambda: any(tmp_path.glob("starting-*")))
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    try:
        _, printed = process.communicate(timeout=HANG)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert printed.decode() == ""
    assert process.returncode == 130
    for starting in tmp_path.glob("starting-*"):
        with pytest.raises(ProcessLookupError):
            os.kill(int(starting.name.removeprefix("starting-")), 0)
