"""The pipeline that a loader's batches go through: reused buffers, threads, and the copy to a device."""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, NoReturn, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from tokenstore.machine import closed_at_end
from tokenstore.reading import ReusedMemory

__all__ = ["Buffers", "DeviceCopies", "in_order", "no_end", "numbered", "pass_to_caller"]

_T = TypeVar("_T")
_R = TypeVar("_R")


class Buffers:
    """Memory for batches of up to `shape`; a buffer is reused once no tensor made of it is referenced.

    At most `spare` unused buffers stay allocated. Pinned memory comes from torch, which reuses it: a copy
    from pinned memory to a device may go on after the last reference is gone.
    """

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, pinned: bool, spare: int) -> None:
        self._shape = shape
        self._dtype = dtype
        self._pinned = pinned
        self._nbytes = math.prod(shape) * dtype.itemsize
        self._numpy_dtype = torch.empty(0, dtype=dtype).numpy().dtype
        self._memory = ReusedMemory(spare)

    def take(self, samples: int) -> Tensor:
        """Return a tensor (samples, ...) on the CPU whose memory nothing else uses."""
        if self._pinned:
            return torch.empty((samples, *self._shape[1:]), dtype=self._dtype, device="cpu", pin_memory=True)
        memory = self._memory.allocate(self._nbytes)
        return torch.from_numpy(np.ndarray((samples, *self._shape[1:]), self._numpy_dtype, memory))


def in_order(work: Callable[[_T], _R], items: Iterable[_T], threads: int, ahead: int) -> Iterator[_R]:
    """Yield `work(item)` for every item, in order, computed by threads up to `ahead` items before its turn.

    Without threads, an item is computed in its turn. An exception of `work` is raised in its item's turn. The
    end of the process closes the iterator: items whose turn has not come are not computed then.
    Raises RuntimeError where a forked process goes on with its parent's iterator, whose threads it lacks.
    """
    return closed_at_end(_in_order(work, items, threads, ahead))


def _in_order(
    work: Callable[[_T], _R], items: Iterable[_T], threads: int, ahead: int
) -> Generator[_R, None, None]:
    if not threads:
        for item in items:  # subtle: `map` would take a StopIteration of `work` for its own end
            yield work(item)
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="tokenstore-loader")
    process = os.getpid()

    def deliver(item: _T, queue: SimpleQueue[Callable[[], _R]]) -> None:
        try:
            result = work(item)
        except BaseException as error:
            queue.put(functools.partial(_raise, error))
        else:
            queue.put(lambda: result)

    def next_result() -> _R:
        if os.getpid() != process:
            raise RuntimeError(
                "expected to go on in the process that began to iterate; begin anew in this one"
            )
        return waiting.popleft().get()()

    try:
        # Results come through queues: waiting for the futures takes up to a fifth of a small batch's time.
        waiting: deque[SimpleQueue[Callable[[], _R]]] = deque()
        for item in items:
            waiting.append(SimpleQueue())
            pool.submit(deliver, item, waiting[-1])
            if len(waiting) > ahead:
                yield next_result()
        while waiting:
            yield next_result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def no_end(function: str) -> RuntimeError:
    """Return the error of a user's function that raised StopIteration, which loops take for their end."""
    return RuntimeError(
        f"{function}: expected a result, found a StopIteration, which a loop would take for the end of the "
        "epoch. Give `next` a default, or raise another error"
    )


def _raise(error: BaseException) -> NoReturn:
    raise error


class DeviceCopies:
    """Copies of batches to a device, on a CUDA stream of their own where the device has streams."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: Any = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    @contextlib.contextmanager
    def stream(self) -> Iterator[None]:
        """Enter a context on the stream, which is left when the device has done the context's work."""
        if self._stream is None:
            yield
            return
        with torch.cuda.stream(self._stream):
            yield
            self._stream.record_event().synchronize()

    def copied(self, batch: Any) -> Any:
        """Return the batch with its tensors on the device; a batch for the CPU is returned as it is."""
        if self._device.type == "cpu":
            return batch
        with self.stream():
            on_stream = self._stream is not None
            return tree_map_only(
                Tensor, lambda tensor: tensor.to(self._device, non_blocking=on_stream), batch
            )


def pass_to_caller(batch: Any, device: torch.device) -> Any:
    """Return the batch after telling CUDA that the caller's stream uses its memory from now on.

    CUDA reuses the memory only when that stream has done all work with the batch.
    """
    if device.type == "cuda":
        stream = torch.cuda.current_stream(device)
        tree_map_only(Tensor, lambda tensor: tensor.record_stream(stream) if tensor.is_cuda else None, batch)
    return batch


def numbered(device: torch.device | str | int) -> torch.device:
    """Return the torch device of a name, a GPU with its number. Raises ValueError for an unknown device."""
    try:
        known = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device: expected one that torch knows, found {device!r}") from error
    if known.type != "cuda":
        return known
    if not torch.cuda.is_available():
        raise ValueError(f"device: expected one that torch has here, found {known}")
    return torch.device("cuda", torch.cuda.current_device() if known.index is None else known.index)
