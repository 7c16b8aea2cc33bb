"""What a loader's batches go through: buffers that are used again, threads, and fetching ahead."""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, NoReturn, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from tokenstore.errors import DamageError
from tokenstore.loading.sampling import BlockShuffle, Order, Steps
from tokenstore.reading import Indices, ReusedMemory, Rows

__all__ = ["Buffers", "FetchAhead", "Mover", "handed_over", "in_order"]

_T = TypeVar("_T")
_R = TypeVar("_R")


class Buffers:
    """Memory for batches of up to `shape`; a buffer is used again once nobody holds what was made of it.

    At most `spare` unused ones are kept. Pinned memory is torch's own to use again: its copies to a device
    may go on when nobody holds it any more.
    """

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, pinned: bool, spare: int) -> None:
        self._shape = shape
        self._dtype = dtype
        self._pinned = pinned
        self._nbytes = math.prod(shape) * dtype.itemsize
        self._numpy_dtype = torch.empty(0, dtype=dtype).numpy().dtype
        self._memory = ReusedMemory(spare)

    def take(self, samples: int) -> Tensor:
        """A tensor (samples, ...) on the CPU that nobody else uses."""
        if self._pinned:
            return torch.empty((samples, *self._shape[1:]), dtype=self._dtype, device="cpu", pin_memory=True)
        memory = self._memory.take(self._nbytes)
        return torch.from_numpy(np.ndarray((samples, *self._shape[1:]), self._numpy_dtype, memory))


def in_order(work: Callable[[_T], _R], items: Iterable[_T], threads: int, ahead: int) -> Iterator[_R]:
    """`work` of every item, in order, done by threads up to `ahead` items before they are asked for.

    Without threads it is done when asked for. What work raises is raised in its item's place. Raises
    RuntimeError where a forked process goes on with its parent's iterator, whose threads it does not have.
    """
    if not threads:
        yield from map(work, items)
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="tokenstore-loader")
    process = os.getpid()

    def deliver(item: _T, place: SimpleQueue[Callable[[], _R]]) -> None:
        try:
            result = work(item)
        except BaseException as error:
            place.put(functools.partial(_raise, error))
        else:
            place.put(lambda: result)

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


def _raise(error: BaseException) -> NoReturn:
    raise error


class Mover:
    """Moves batches to a device, on a CUDA stream of its own where there is one."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: Any = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    @contextlib.contextmanager
    def stream(self) -> Iterator[None]:
        """What is done on the device here has been done when this ends."""
        if self._stream is None:
            yield
            return
        with torch.cuda.stream(self._stream):
            yield
            self._stream.record_event().synchronize()

    def moved(self, batch: Any) -> Any:
        """The batch with its tensors on the device."""
        if self._device.type == "cpu":
            return batch
        with self.stream():
            on_stream = self._stream is not None
            return tree_map_only(
                Tensor, lambda tensor: tensor.to(self._device, non_blocking=on_stream), batch
            )


def handed_over(batch: Any, device: torch.device) -> Any:
    """A batch for the caller's CUDA stream: its memory is not used again before that is done with it."""
    if device.type == "cuda":
        stream = torch.cuda.current_stream(device)
        tree_map_only(Tensor, lambda tensor: tensor.record_stream(stream) if tensor.is_cuda else None, batch)
    return batch


class FetchAhead:
    """Fetches the tokens of an epoch's steps, a span of it at a time, while those before are decoded.

    A span is a window of the shuffle or, for other orders, `span` positions.
    """

    def __init__(self, rows: Rows, order: Order, steps: Steps, rank: int, span: int) -> None:
        self._rows = rows
        self._order = order
        self._steps = steps
        self._rank = rank
        self._span = span
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="tokenstore-fetch")
        self._fetched: dict[int, Future[Any]] = {}
        self._held: list[Future[Any]] = []
        self._held_span = 0, 0
        """The positions whose tokens are in what is held; none while a step lies in two spans."""

    def close(self) -> None:
        """Fetch no more; what is under way is not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def announce(self, step: int) -> list[Future[Any]]:
        """What is fetched for a step, begun at the latest now, and the next span with it.

        One result holds all the step's tokens in memory; where there are several, they are kept for a while.
        """
        start, stop = self._steps.span(step, self._rank)
        if self._held_span[0] <= start and stop <= self._held_span[1]:
            return self._held
        first, last = self._span_of(start), self._span_of(stop - 1)
        for span in range(first, last + 2):
            if span not in self._fetched and self._bounds(span)[0] < self._steps.samples:
                self._fetched[span] = self._pool.submit(self._fetch, span)
        for span in [span for span in self._fetched if span < first]:
            del self._fetched[span]
        self._held = [self._fetched[span] for span in range(first, last + 1)]
        self._held_span = self._bounds(first) if first == last else (0, 0)
        return self._held

    def _span_of(self, position: int) -> int:
        position = min(position, self._steps.samples - 1)
        if isinstance(self._order, BlockShuffle):
            return int(self._order.window_of(np.array([position]))[0])
        return position // self._span

    def _bounds(self, span: int) -> tuple[int, int]:
        if not isinstance(self._order, BlockShuffle):
            return span * self._span, (span + 1) * self._span
        if span >= self._order.windows:
            return self._steps.samples, self._steps.samples
        return self._order.window_span(span)

    def _fetch(self, span: int) -> Any:
        with contextlib.suppress(DamageError):  # it is raised where its sample's batch would come
            if isinstance(self._order, BlockShuffle) and self._steps.world_size == 1:
                return self._rows.prefetch(self._order.window_blocks(span))
            return self._rows.prefetch(self._order(self._positions(*self._bounds(span))))
        return None

    def _positions(self, start: int, stop: int) -> Indices:
        """What of the positions [start, stop) is this rank's."""
        size = self._steps.batch_size * self._steps.world_size
        first = max(0, (start - self._steps.consumed) // size)
        last = min(len(self._steps), -(-(stop - self._steps.consumed) // size) + 1)
        parts = [np.empty(0, np.int64)]
        for step in range(first, last):
            low, high = self._steps.span(step, self._rank)
            parts.append(np.arange(max(low, start), min(high, stop, self._steps.samples)))
        return np.concatenate(parts)
