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
from helpers.awaited_images import NumberSplit, WaitingDecoder
from helpers.brightness import write_grey_folder
from helpers.waiting import HANG, wait_until
from PIL import Image

from tokenstore.errors import SourceError, StorageError, WorkerError
from tokenstore.sources import open_source
from tokenstore.sources.decoding import DecodePool, decode_in_order, decode_tasks
from tokenstore.sources.fetching import TASKS_AHEAD, TaskFetcher
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


@pytest.mark.parametrize("workers", [0, 1])
def test_images_of_the_next_tasks_are_fetched_while_one_is_decoded(tmp_path: Path, workers: int) -> None:
    split: Any = NumberSplit(tmp_path, 12)
    decoder: Any = WaitingDecoder(tmp_path, 3, len(split))
    with DecodePool(decoder, workers) as pool:
        batches = pool.decode(decode_tasks(split, 0, len(split), samples=1))
        assert [int(batch.inputs[0, 0]) for batch in batches] == list(range(len(split)))


def test_tasks_that_nobody_decodes_are_forgotten_and_the_pool_goes_on(tmp_path: Path) -> None:
    split: Any = NumberSplit(tmp_path, 20, fails_at=17)
    decoder: Any = WaitingDecoder(tmp_path, 0, len(split))
    with DecodePool(decoder, 2) as pool:
        for start in (0, 1):
            batches = pool.decode(decode_tasks(split, start, len(split), samples=1))
            assert int(next(batches).inputs[0, 0]) == start
            batches.close()  # type: ignore[attr-defined]
        batches = pool.decode(decode_tasks(split, 10, len(split), samples=1))
        numbers = []
        with pytest.raises(StorageError, match="no answer"):
            numbers += [int(batch.inputs[0, 0]) for batch in batches]
        batches = pool.decode(decode_tasks(split, 18, len(split), samples=1))
        assert [int(batch.inputs[0, 0]) for batch in batches] == [18, 19]


def test_images_that_take_much_memory_are_not_fetched_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split: Any = NumberSplit(tmp_path, 1000)
    tasks = list(decode_tasks(split, 100, 120, samples=1))  # of three bytes each
    for most, expected in ((2, 1), (3, 2), (7, 3), (100, 1 + TASKS_AHEAD)):
        monkeypatch.setattr("tokenstore.sources.fetching.MOST_NBYTES", most)
        fetcher, folder = TaskFetcher(), tmp_path
        for path in folder.iterdir():
            path.unlink()
        fetcher.begin(0, tasks[0])
        fetcher.take(0)
        for number, task in enumerate(tasks[1:], 1):
            fetcher.begin(number, task)
        wait_until(lambda expected=expected: len(list(tmp_path.iterdir())) >= expected)  # type: ignore[misc]
        fetcher.close()
        assert len(list(folder.iterdir())) == expected
        assert list(fetcher.take(19).images.read()) == [b"119"]
