"""What augmentation asks of devices: arithmetic, and copies that are not waited for."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

__all__ = ["Precision", "has_bfloat16", "in_float32", "moved", "products"]

Precision: TypeAlias = Literal["auto", "bf16", "fp32"]

_AMPERE = (8, 0)


def products(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """A context in which matrix products are in bfloat16 or float32; "auto" is has_bfloat16's answer."""
    if precision not in get_args(Precision):
        raise ValueError(f"precision: expected one of {list(get_args(Precision))}, found {precision!r}")
    half = has_bfloat16(device) if precision == "auto" else precision == "bf16"
    return torch.autocast(device.type, torch.bfloat16, enabled=half)


def in_float32(device: torch.device) -> AbstractContextManager[object]:
    """A context in which products are as their inputs are, whatever the caller's."""
    return torch.autocast(device.type, enabled=False)


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 faster than float32.

    GPUs from Ampere on do, and CPUs with AVX512-BF16 or AMX.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= _AMPERE
    if device.type != "cpu":
        return False
    asked = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    return any(ask is not None and bool(ask()) for ask in asked)


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device, without waiting for it."""
    # subtle: towards the host, a copy that does not block may be read before it is there
    return tensor.to(device, non_blocking=device.type != "cpu")
