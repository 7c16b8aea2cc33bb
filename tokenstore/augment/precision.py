"""Which arithmetic a network that only augments may use."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Literal, TypeAlias

import torch

__all__ = ["Precision", "products"]

Precision: TypeAlias = Literal["auto", "bf16", "fp32"]


def products(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """A context in which matrix products are in bfloat16 or float32.

    "auto" is bfloat16 where the device multiplies it faster than float32: GPUs from Ampere on, CPUs with
    AVX512-BF16 or AMX.
    """
    half = _has_bfloat16(device) if precision == "auto" else precision == "bf16"
    return torch.autocast(device.type, torch.bfloat16, enabled=half)


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False
