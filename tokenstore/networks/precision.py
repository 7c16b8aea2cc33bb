"""The arithmetic of networks: the devices that multiply bfloat16 natively."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch

__all__ = ["Precision", "has_bfloat16"]

Precision: TypeAlias = Literal["auto", "bf16", "fp32"]
"""The arithmetic of matrix products: bf16, fp32, or bf16 where the device multiplies it natively."""

_AMPERE = (8, 0)


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a device multiplies bfloat16 faster than float32.

    GPUs from Ampere on do, and CPUs with AVX512-BF16 or AMX.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= _AMPERE
    if device.type != "cpu":
        return False
    asked = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    return any(ask is not None and bool(ask()) for ask in asked)
