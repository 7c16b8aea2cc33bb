"""The passes of a tokenizer's network: one image each on the threads of a CPU, full batches on a GPU.

A pass always has the same number of inputs, so that codes don't depend on the batch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenstore.errors import Parameter, TokenizerError

__all__ = [
    "ACCELERATOR_BATCH",
    "Pass",
    "compiled_pass",
    "full_passes",
    "lay_weights",
    "on_threads",
    "refuse_compiling",
]

Pass: TypeAlias = Callable[[Tensor], Tensor]
"""A function of a batch, whose result has as many rows."""
ACCELERATOR_BATCH = 32
"""The inputs of one pass on a GPU, always as many, so that codes don't depend on the batch."""
PINNED = ("cuda",)
"""The devices that copy page-locked memory while they compute."""


def full_passes(function: Pass, batch: Tensor, device: torch.device, size: int = ACCELERATOR_BATCH) -> Tensor:
    """Apply a function to a batch in passes of `size` inputs on a device, and join the results.

    Nothing here waits for the device: while it computes a pass, the next one is copied.
    """
    parts = torch.split(batch, size)
    return torch.cat([function(full_pass(part, device, size))[: len(part)] for part in parts])


def full_pass(part: Tensor, device: torch.device, size: int = ACCELERATOR_BATCH) -> Tensor:
    """Return a pass of `size` inputs on a device, of inputs (n, ...), n <= size, filled up with zeros.

    Pixels (n, 3, H, W) that lie channels last in memory, as decoded images do, are copied as they lie, and
    turned round on the device.
    """
    shape = size, *part.shape[1:]
    if part.device.type != "cpu":
        fill = [0] * (2 * (part.ndim - 1)) + [0, size - len(part)]
        return F.pad(part, fill).to(device).contiguous()
    lies_last = part.ndim == 4 and part.is_contiguous(memory_format=torch.channels_last)
    order = torch.channels_last if lies_last else torch.contiguous_format
    pinned = device.type in PINNED
    staged = torch.empty(shape, dtype=part.dtype, memory_format=order, pin_memory=pinned)
    staged[: len(part)] = part
    staged[len(part) :] = 0
    # subtle: torch uses pinned memory again only when copies from it have ended
    return staged.to(device, non_blocking=pinned).contiguous()


def lay_weights(network: nn.Module, device: torch.device) -> None:
    """Lay the weights of a network's convolutions in memory as a device multiplies them fastest.

    That is channels last on a GPU. A CPU keeps the usual order, on which the rounding of its codes depends.
    """
    order = torch.contiguous_format if device.type == "cpu" else torch.channels_last
    for weight in network.parameters():
        if weight.ndim == 4:
            weight.data = weight.data.contiguous(memory_format=order)


def compiled_pass(function: Pass, name: str, backend: str) -> Pass:
    """Return a pass of the tokenizer `name` compiled by torch.compile, when it is first made.

    The pass raises TokenizerError if it cannot be compiled here.
    """
    compiled, worked = torch.compile(function, backend=backend, dynamic=False), threading.Event()

    def compiled_or_refused(batch: Tensor) -> Tensor:
        try:
            result: Tensor = compiled(batch)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # as all errors of torch's compilers are
            if worked.is_set():
                raise
            named = Parameter("compile", True)
            reason = " ".join(str(error).split("\n")[:2]).strip() or type(error).__name__
            raise TokenizerError(
                f"{named}: torch cannot compile the tokenizer {name} here: {reason}. Leave out {named}",
                parameters=[named],
            ) from error
        worked.set()
        return result

    return compiled_or_refused


def refuse_compiling(name: str) -> NoReturn:
    """Raise TokenizerError for the tokenizer `name`, which has no network that torch could compile."""
    named = Parameter("compile", True)
    raise TokenizerError(
        f"{named}: the tokenizer {name} has no network that torch could compile. Leave out {named}",
        parameters=[named],
    )


def on_threads(function: Pass, batch: Tensor, threads: int) -> Tensor:
    """Apply a function to each element of a batch, as a batch of one on a thread, and join the results.

    subtle: torch's threads inside an operation wait for each other at its end, which costs a factor of
    ten where other processes use the same cores.
    """
    with _one_thread_an_operation, ThreadPoolExecutor(threads) as pool:
        # subtle: torch's modes belong to a thread
        return torch.cat(list(pool.map(torch.no_grad()(function), torch.split(batch, 1))))


class _OneThreadAnOperation:
    """A limit of one thread for each operation of torch, in the whole process, while any thread is within."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._within = 0
        self._before = 1

    def __enter__(self) -> None:
        with self._lock:
            if not self._within:
                self._before = torch.get_num_threads()
                torch.set_num_threads(1)
            self._within += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._within -= 1
            if not self._within:
                torch.set_num_threads(self._before)


_one_thread_an_operation = _OneThreadAnOperation()
