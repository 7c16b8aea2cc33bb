"""What augmentation asks of devices: arithmetic, and copies that are not waited for."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import get_args

import torch
from torch import Tensor

from tokenstore.networks.precision import Precision, has_bfloat16

__all__ = ["Precision", "has_bfloat16", "in_float32", "in_parts", "moved", "products"]


def products(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """A context in which matrix products are in bfloat16 or float32; "auto" is has_bfloat16's answer."""
    if precision not in get_args(Precision):
        raise ValueError(f"precision: expected one of {list(get_args(Precision))}, found {precision!r}")
    half = has_bfloat16(device) if precision == "auto" else precision == "bf16"
    return torch.autocast(device.type, torch.bfloat16, enabled=half)


def in_float32(device: torch.device) -> AbstractContextManager[object]:
    """A context in which products are as their inputs are, whatever the caller's."""
    return torch.autocast(device.type, enabled=False)


def in_parts(function: Callable[[slice], Tensor], count: int, at_once: int, device: torch.device) -> Tensor:
    """What `function` gives for the samples 0 to count, joined: on a CPU for `at_once` of them at a time.

    There the parts are computed side by side, each by one thread, which has less to wait for than all threads
    in every step of one part; on other devices there is one part. The caller's contexts of torch, such as
    no_grad and autocast, are not those of the threads.
    """
    parts = [slice(start, start + at_once) for start in range(0, max(1, count), at_once)]
    threads = min(torch.get_num_threads(), len(parts))
    if device.type != "cpu":
        return function(slice(0, count))
    if threads == 1:
        return torch.cat([function(part) for part in parts])
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return torch.cat(list(pool.map(function, parts)))


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device, without waiting for it."""
    # subtle: towards the host, a copy that does not block may be read before it is there
    return tensor.to(device, non_blocking=device.type != "cpu")
