"""The decode processes: an image split's samples as batches, in order, in bounded memory."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import shutil
import signal
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tokenstore.errors import Parameter, SampleError, SourceError
from tokenstore.sources.base import ImageRequest, ImageSplit, MaskedSplit, MaskRequest
from tokenstore.sources.images import Decoder, Pixels
from tokenstore.sources.masks import MaskDecoder

__all__ = ["DecodedBatch", "ImageFacts", "Inputs", "decode_in_order", "interrupts_held"]

TASK_SAMPLES = 32
"""The number of samples of one task of a decode process, if shared memory has room for them."""


@dataclass(frozen=True)
class ImageFacts:
    """The size of an upright image in pixels, and of its file in bytes."""

    width: int
    height: int
    nbytes: int


@dataclass(frozen=True)
class DecodedBatch:
    """The decoded samples from `start` on.

    `inputs` and `masks` are only valid until the next batch is requested.
    """

    start: int
    inputs: Inputs
    """The inputs (n, *shape) that the decoder made; the input of a bad sample is undefined."""
    masks: Pixels | None
    """The label maps (n, H, W), if they were requested."""
    outcomes: list[ImageFacts | SampleError]
    """The facts of each image, or the error of a bad sample."""


Inputs: TypeAlias = npt.NDArray[Any]
_Outcomes: TypeAlias = list[ImageFacts | SampleError]
_Records: TypeAlias = npt.NDArray[Any]
"""The results of decoding, (n,), with the fields `input` and, with label maps, `mask`."""


@dataclass(frozen=True)
class _Decoders:
    """The decoders of one conversion."""

    images: Decoder
    masks: MaskDecoder | None

    @property
    def dtype(self) -> np.dtype[Any]:
        """The data type of a record."""
        fields: list[Any] = [("input", self.images.dtype, self.images.shape)]
        if self.masks is not None:
            fields.append(("mask", np.uint8, self.masks.shape))
        return np.dtype(fields, align=True)


@dataclass(frozen=True)
class _Task:
    """The requests of one task: neighbouring samples."""

    images: ImageRequest
    masks: MaskRequest | None


def decode_in_order(
    split: ImageSplit,
    start: int,
    stop: int,
    decoder: Decoder,
    workers: int,
    masks: MaskDecoder | None = None,
) -> Iterator[DecodedBatch]:
    """Decode samples [start, stop) in `workers` processes, or in this process if `workers` is 0.

    With `masks` the split is a MaskedSplit, and a sample without a valid label map is bad.

    Raises SourceError if a decode process dies or shared memory is too small, and TypeError for `masks` with
    a split that has none.
    """
    decoders = _Decoders(decoder, masks)
    samples = _task_samples(workers, decoders.dtype.itemsize)
    tasks = ((first, min(first + samples, stop)) for first in range(start, stop, samples))
    if workers < 1:
        records: _Records = np.empty(samples, decoders.dtype)
        for first, last in tasks:
            outcomes = _decode_task(_task(split, first, last, masks), decoders, records)
            yield _batch(first, records[: last - first], outcomes)
        return
    with _Slots(_slot_count(workers), samples, decoders) as slots, _pool(workers, slots, decoders) as pool:
        running: deque[tuple[int, int, int, Future[_Outcomes]]] = deque()
        free = list(range(len(slots)))
        try:
            while True:
                for first, last in itertools.islice(tasks, len(free)):
                    slot = free.pop()
                    task = _task(split, first, last, masks)
                    with interrupts_held():  # a process starts with a task
                        running.append((first, last, slot, pool.submit(_work, task, slot)))
                if not running:
                    return
                first, last, slot, future = running.popleft()
                yield _batch(first, slots[slot][: last - first], future.result())
                free.append(slot)
        except BrokenProcessPool as error:
            raise SourceError(
                f"a decode process died at samples {first} to {last - 1}: killed, out of memory (use fewer "
                "workers or a smaller max_pixels), or, in a script, begun where everything that converts "
                'does not stand under `if __name__ == "__main__":`'
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _task(split: ImageSplit, first: int, last: int, masks: MaskDecoder | None) -> _Task:
    if masks is None:
        return _Task(split.request(first, last), None)
    if not isinstance(split, MaskedSplit):
        raise TypeError(f"expected a split with label maps, found {type(split).__name__}")
    return _Task(split.request(first, last), split.masks(first, last))


def _batch(start: int, records: _Records, outcomes: _Outcomes) -> DecodedBatch:
    if len(outcomes) != len(records):
        raise SourceError(
            f"samples {start} to {start + len(records) - 1}: expected {len(records)} images of the source's "
            f"request, found {len(outcomes)}"
        )
    masks = records["mask"] if "mask" in (records.dtype.names or ()) else None
    return DecodedBatch(start, records["input"], masks, outcomes)


def _slot_count(workers: int) -> int:
    """Return the number of slots that keep all workers busy while batches wait to be used."""
    return 2 * workers + 2


def _task_samples(workers: int, nbytes: int) -> int:
    """Return the samples of one task, for which all slots take at most half of the free shared memory."""
    shared = Path("/dev/shm")
    if workers < 1 or not shared.is_dir():
        return TASK_SAMPLES
    samples = shutil.disk_usage(shared).free // 2 // (_slot_count(workers) * nbytes)
    if samples < 1:
        no_workers = Parameter("workers", 0)
        raise SourceError(
            f"{shared} has too little room to pass images of {nbytes:,} bytes between {workers} "
            f"processes. Make it larger, or decode in one process with {no_workers}",
            parameters=[no_workers],
        )
    return min(TASK_SAMPLES, samples)


def _pool(workers: int, slots: _Slots, decoders: _Decoders) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin_work,
        initargs=(slots.names, slots.samples, decoders),
    )


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Hold back Ctrl-C meanwhile: processes that are started inherit that, and leave it to their parent."""
    if not hasattr(signal, "pthread_sigmask"):  # as on Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Slots:
    """The shared memory that decode processes fill with records, one slot for each task."""

    def __init__(self, count: int, samples: int, decoders: _Decoders) -> None:
        self.samples = samples
        self._dtype = decoders.dtype
        nbytes = samples * self._dtype.itemsize
        self._memory = [SharedMemory(create=True, size=nbytes) for _ in range(count)]
        self.names = [memory.name for memory in self._memory]

    def __len__(self) -> int:
        return len(self._memory)

    def __getitem__(self, slot: int) -> _Records:
        return np.ndarray(self.samples, self._dtype, buffer=self._memory[slot].buf)

    def __enter__(self) -> _Slots:
        return self

    def __exit__(self, *_: object) -> None:
        for memory in self._memory:
            memory.unlink()
            try:
                memory.close()
            except BufferError:  # a caller still uses the last batch; the memory is freed with the batch
                memory._buf = memory._mmap = None  # type: ignore[attr-defined]


_slots: list[SharedMemory] = []
_samples: int
_decoders: _Decoders


def _begin_work(names: list[str], samples: int, decoders: _Decoders) -> None:
    """Set up a decode process, which leaves Ctrl-C to its parent and ends when its parent does."""
    global _samples, _decoders
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    _slots.extend(SharedMemory(name) for name in names)
    _samples, _decoders = samples, decoders


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


def _work(task: _Task, slot: int) -> _Outcomes:
    records: _Records = np.ndarray(_samples, _decoders.dtype, buffer=_slots[slot].buf)
    return _decode_task(task, _decoders, records)


def _decode_task(task: _Task, decoders: _Decoders, records: _Records) -> _Outcomes:
    outcomes = _decode_images(task.images, decoders.images, records["input"])
    if task.masks is None or decoders.masks is None:
        return outcomes
    return _decode_masks(task.masks, decoders.masks, records["mask"], outcomes)


def _decode_images(request: ImageRequest, decoder: Decoder, inputs: Inputs) -> _Outcomes:
    outcomes: _Outcomes = []
    for position, data in enumerate(request.read()):
        if isinstance(data, SampleError):
            outcomes.append(data)
            continue
        try:
            width, height = decoder.decode(data, inputs[position])
        except SampleError as error:
            outcomes.append(error)
            continue
        outcomes.append(ImageFacts(width, height, len(data)))
    return outcomes


def _decode_masks(
    request: MaskRequest, decoder: MaskDecoder, masks: Pixels, outcomes: _Outcomes
) -> _Outcomes:
    """Decode the label maps of the good images, and return the outcomes of both."""
    both: _Outcomes = []
    for position, (data, outcome) in enumerate(zip(request.read(), outcomes, strict=True)):
        if isinstance(outcome, SampleError):
            both.append(outcome)
            continue
        try:
            if isinstance(data, SampleError):
                raise data
            decoder.decode(data, outcome.width, outcome.height, masks[position])
            both.append(outcome)
        except SampleError as error:
            both.append(SampleError(f"label map {request.where(position)}: {error}"))
    return both
