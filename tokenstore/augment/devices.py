"""The use of devices by augmentation: the precision of products, threads, and copies without waiting."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from tokenstore.networks.precision import Precision, computes_in_bfloat16
from tokenstore.networks.threads import torch_threads

__all__ = ["in_float32", "in_parts", "products", "to_device"]


def products(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Return a context in which matrix products are in bfloat16 ("bf16") or float32 ("fp32").

    "auto" is bfloat16 if the device multiplies it natively. Raises ArgumentError for another precision.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=computes_in_bfloat16(precision, device))


def in_float32(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which products have their inputs' precision, whatever the caller's context."""
    return torch.autocast(device.type, enabled=False)


def in_parts(function: Callable[[slice], Tensor], count: int, at_once: int, device: torch.device) -> Tensor:
    """Compute `function` for the samples 0 to count, in parts on a CPU, and join the results.

    On a CPU a part is `at_once` samples, and the parts are computed side by side, each by one thread. That is
    faster than all threads at one part, which wait for each other in every step. On other devices there is
    one part. The threads don't have the caller's contexts of torch, such as no_grad and autocast.
    """
    parts = [slice(start, start + at_once) for start in range(0, max(1, count), at_once)]
    threads = min(torch.get_num_threads(), len(parts))
    if device.type != "cpu":
        return function(slice(0, count))
    if threads == 1:
        return torch.cat([function(part) for part in parts])
    # subtle: a thread that sets its number of torch's threads sets it for threads that begin later, too
    with (
        torch_threads(),
        ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool,
    ):
        return torch.cat(list(pool.map(function, parts)))


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device, without waiting for the device."""
    # subtle: a copy to the host that does not block may be read before it is complete
    return tensor.to(device, non_blocking=device.type != "cpu")
