"""The images of neighbouring tasks that are read together, in groups that are bounded, in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from helpers.brightness import BrightnessTokenizer, write_grey_folder
from helpers.fault_proxy import FaultProxy
from helpers.object_storage import S3Server
from helpers.tar_files import write_tar
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenstore
from tokenstore.errors import StorageError
from tokenstore.sources import fetching
from tokenstore.sources.decode_processes import Assigned, DecodeProcesses
from tokenstore.sources.decode_task import DecodeTask
from tokenstore.sources.decoding import DecodePool
from tokenstore.sources.fetching import fetched_ahead


@dataclass
class Log:
    """The reads of a source: the bytes of each."""

    reads: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class ZeroRequest:
    """A request for images of zeros, some bytes each; reading it is written down."""

    sizes: tuple[int, ...]
    log: Log
    fails: bool = False
    is_remote: bool = True
    is_shared: bool = True

    @property
    def nbytes(self) -> int:
        return sum(self.sizes)

    def joined(self, following: Sequence[ZeroRequest]) -> ZeroRequest:
        requests = [self, *following]
        sizes = tuple(size for request in requests for size in request.sizes)
        return ZeroRequest(sizes, self.log, any(request.fails for request in requests))

    def read(self) -> list[bytes]:
        if self.fails:
            raise StorageError("no answer within 30 s")
        self.log.reads.append(self.nbytes)
        return [bytes(size) for size in self.sizes]


def tasks_of(sizes: Sequence[Sequence[int]], log: Log) -> list[DecodeTask]:
    """Return a task for each group of sizes."""
    ends = np.cumsum([0, *map(len, sizes)]).tolist()
    requests = [ZeroRequest(tuple(each), log) for each in sizes]
    return [DecodeTask(ends[at], ends[at + 1], request) for at, request in enumerate(requests)]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.integers(0, 30), max_size=3), max_size=30), st.booleans())
def test_every_task_has_its_own_images_and_reads_are_bounded(sizes: list[list[int]], alone: bool) -> None:
    log = Log()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetching, "_GROUP_NBYTES", 50)
        tasks = list(fetched_ahead(iter(tasks_of(sizes, log)), alone=alone))
    assert [[len(image) for image in task.images.read()] for task in tasks] == sizes
    assert sum(log.reads) == sum(map(sum, sizes))
    assert max(log.reads, default=0) <= max([50, *map(sum, sizes)])


def test_the_first_task_is_read_alone_and_later_ones_in_groups_that_grow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fetching, "_GROUP_NBYTES", 80)
    log = Log()
    assert len(list(fetched_ahead(iter(tasks_of([[10]] * 31, log)), alone=True))) == 31
    assert sorted(log.reads) == sorted([10, 20, 40, 80, 80, 80])


def test_no_more_images_are_fetched_ahead_than_memory_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "MOST_NBYTES", 35)
    monkeypatch.setattr(fetching, "_GROUP_NBYTES", 10)
    log, taken = Log(), list[DecodeTask]()
    tasks = fetched_ahead(counted(tasks_of([[10]] * 20, log), taken), alone=True)
    next(tasks)
    assert len(taken) <= 3 + 2  # three groups, and the task behind them, which ends the next one
    assert len(list(tasks)) == 19


def counted(tasks: Sequence[DecodeTask], taken: list[DecodeTask]) -> Iterator[DecodeTask]:
    """Yield tasks, and note which were taken."""
    for task in tasks:
        taken.append(task)
        yield task


def test_an_error_of_storage_is_raised_as_it_is() -> None:
    task = DecodeTask(0, 1, ZeroRequest((1,), Log(), fails=True))
    for tasks in ([task], [*tasks_of([[1]] * 3, Log()), task]):
        with pytest.raises(StorageError, match=r"^no answer within 30 s$"):
            list(fetched_ahead(iter(tasks), alone=False))


@dataclass(frozen=True)
class LengthDecoder:
    """A decoder that takes the length of an image for its only pixel."""

    shape: tuple[int, ...] = (1,)
    dtype: Any = np.int64

    def decode(self, data: bytes, out: Any) -> tuple[int, int]:
        out[:] = len(data)
        return 1, 1


@pytest.mark.parametrize(("most", "expected"), [(1, 1), (10, 1), (30, 3), (1000, 4)])
def test_processes_are_given_images_that_fit_into_memory_ahead(
    monkeypatch: pytest.MonkeyPatch, most: int, expected: int
) -> None:
    given: list[Assigned] = []
    decode = DecodeProcesses.decode

    def noted(self: DecodeProcesses, assigned: Assigned, slot: int) -> Any:
        given.append(assigned)
        return decode(self, assigned, slot)

    monkeypatch.setattr(DecodeProcesses, "decode", noted)
    monkeypatch.setattr("tokenstore.sources.decoding.MOST_NBYTES", most)
    decoder: Any = LengthDecoder()
    with DecodePool(decoder, 1) as pool:  # which has four slots
        batches = pool.decode(iter(tasks_of([[10]] * 9, Log())))
        first = next(batches)
        assert (len(given), first.inputs[0, 0]) == (expected, 10)
        assert [int(batch.inputs[0, 0]) for batch in batches] == [10] * 8


def test_a_tar_file_on_s3_takes_a_request_for_many_tasks(
    tmp_path: Path, s3_server: S3Server, fault_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokenstore.sources.decoding.TASK_SAMPLES", 2)
    write_grey_folder(tmp_path / "grey", 8)
    images = sorted(path.read_bytes() for path in (tmp_path / "grey").rglob("*.png"))
    tar = write_tar(tmp_path / "x.tar", {f"{number:03}.png": data for number, data in enumerate(images)})
    bucket = f"s3://{s3_server.new_bucket()}"
    fsspec.filesystem("s3", **s3_server.storage_options()).put_file(str(tar), f"{bucket}/x.tar")
    requests: list[int] = []
    tokenstore.convert(
        f"{bucket}/x.tar",
        tmp_path / "x.zarr",
        tokenizer=BrightnessTokenizer(),
        image_size=16,
        workers=1,
        batch_size=2,
        source_storage_options=s3_server.storage_options(fault_proxy.url),
        on_source=lambda _: requests.append(fault_proxy.count("GET")),
    )
    tasks = len(images) // 2
    assert tasks >= 8
    assert fault_proxy.count("GET") - requests[0] < tasks / 2
