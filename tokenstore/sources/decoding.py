"""Decode processes: an image split's samples as batches of inputs, in order, in bounded memory."""

from __future__ import annotations

import itertools
import math
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

from tokenstore.errors import SampleError, SourceError
from tokenstore.sources.base import ImageRequest, ImageSplit
from tokenstore.sources.images import Decoder

TASK_SAMPLES = 32


@dataclass(frozen=True)
class ImageFacts:
    """The size of an image as it is looked at, in pixels, and of its file, in bytes."""

    width: int
    height: int
    nbytes: int


@dataclass(frozen=True)
class DecodedBatch:
    """Neighbouring samples: `inputs` (n, *shape) as the decoder makes them; one that is bad holds anything.

    `inputs` are only valid until the next batch is asked for.
    """

    start: int
    inputs: Inputs
    outcomes: list[ImageFacts | SampleError]


Inputs: TypeAlias = npt.NDArray[Any]
_Outcomes: TypeAlias = list[ImageFacts | SampleError]


def decode_in_order(
    split: ImageSplit, start: int, stop: int, decoder: Decoder, workers: int
) -> Iterator[DecodedBatch]:
    """Decode samples [start, stop) in `workers` processes, or in this one where that is 0.

    Raises SourceError where a decode process dies.
    """
    samples = _task_samples(workers, _nbytes(decoder))
    tasks = ((first, min(first + samples, stop)) for first in range(start, stop, samples))
    if workers < 1:
        inputs: Inputs = np.empty((samples, *decoder.shape), decoder.dtype)
        for first, last in tasks:
            outcomes = _decode_request(split.request(first, last), decoder, inputs)
            yield DecodedBatch(first, inputs[: last - first], outcomes)
        return
    with _Slots(_slot_count(workers), samples, decoder) as slots, _pool(workers, slots, decoder) as pool:
        running: deque[tuple[int, int, int, Future[_Outcomes]]] = deque()
        free = list(range(len(slots)))
        try:
            while True:
                for first, last in itertools.islice(tasks, len(free)):
                    slot = free.pop()
                    running.append((first, last, slot, pool.submit(_work, split.request(first, last), slot)))
                if not running:
                    return
                first, last, slot, future = running.popleft()
                yield DecodedBatch(first, slots[slot][: last - first], future.result())
                free.append(slot)
        except BrokenProcessPool as error:
            raise SourceError(
                f"a decode process died at samples {first} to {last - 1}: killed, out of memory (use fewer "
                "workers or a smaller max_pixels), or, in a script, begun where everything that converts "
                'does not stand under `if __name__ == "__main__":`'
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _slot_count(workers: int) -> int:
    return 2 * workers + 2


def _nbytes(decoder: Decoder) -> int:
    return math.prod(decoder.shape) * decoder.dtype.itemsize


def _task_samples(workers: int, image_nbytes: int) -> int:
    """Samples of one task: so many that all slots take at most half of what is free for shared memory."""
    shared = Path("/dev/shm")
    if workers < 1 or not shared.is_dir():
        return TASK_SAMPLES
    samples = shutil.disk_usage(shared).free // 2 // (_slot_count(workers) * image_nbytes)
    if samples < 1:
        raise SourceError(
            f"{shared} has too little room to hand images of {image_nbytes:,} bytes between {workers} "
            "processes. Make it larger, or decode in one process with --workers 0"
        )
    return min(TASK_SAMPLES, samples)


def _pool(workers: int, slots: _Slots, decoder: Decoder) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin_work,
        initargs=(slots.names, slots.samples, decoder),
    )


class _Slots:
    """Shared memory that decode processes fill with inputs, a task a slot."""

    def __init__(self, count: int, samples: int, decoder: Decoder) -> None:
        self.samples = samples
        self._decoder = decoder
        self._memory = [SharedMemory(create=True, size=samples * _nbytes(decoder)) for _ in range(count)]
        self.names = [memory.name for memory in self._memory]

    def __len__(self) -> int:
        return len(self._memory)

    def __getitem__(self, slot: int) -> Inputs:
        return _inputs(self._memory[slot], self.samples, self._decoder)

    def __enter__(self) -> _Slots:
        return self

    def __exit__(self, *_: object) -> None:
        for memory in self._memory:
            memory.unlink()
            try:
                memory.close()
            except BufferError:  # a caller still looks at the last batch; the memory goes with it
                memory._buf = memory._mmap = None  # type: ignore[attr-defined]


def _inputs(memory: SharedMemory, samples: int, decoder: Decoder) -> Inputs:
    inputs: Inputs = np.ndarray((samples, *decoder.shape), decoder.dtype, buffer=memory.buf)
    return inputs


_slots: list[SharedMemory] = []
_samples: int
_decoder: Decoder


def _begin_work(names: list[str], samples: int, decoder: Decoder) -> None:
    """Set up a decode process: it leaves Ctrl-C to its parent, and ends when its parent does."""
    global _samples, _decoder
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    _slots.extend(SharedMemory(name) for name in names)
    _samples, _decoder = samples, decoder


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


def _work(request: ImageRequest, slot: int) -> _Outcomes:
    return _decode_request(request, _decoder, _inputs(_slots[slot], _samples, _decoder))


def _decode_request(request: ImageRequest, decoder: Decoder, inputs: Inputs) -> _Outcomes:
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
