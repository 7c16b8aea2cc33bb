"""The arithmetic of networks: the devices that multiply bfloat16 natively."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import torch

from tokenstore.errors import ArgumentError, Parameter, did_you_mean

__all__ = ["Precision", "computes_in_bfloat16", "has_bfloat16"]

Precision: TypeAlias = Literal["auto", "bf16", "fp32"]
"""The arithmetic of matrix products: bf16, fp32, or bf16 where the device multiplies it natively."""

_AMPERE = (8, 0)


def computes_in_bfloat16(precision: str, device: torch.device | str) -> bool:
    """Return True if matrix products of this `precision` are computed in bfloat16 on a device.

    Raises ArgumentError for a precision other than "auto", "bf16" and "fp32".
    """
    if precision not in get_args(Precision):
        parameter = Parameter("precision", precision)
        expected = ", ".join(get_args(Precision))
        near = did_you_mean(precision, get_args(Precision))
        raise ArgumentError(f"{parameter}: expected one of {expected} here{near}", parameters=[parameter])
    return precision == "bf16" or (precision == "auto" and has_bfloat16(torch.device(device)))


def has_bfloat16(device: torch.device) -> bool:
    """Return True if a device multiplies bfloat16 faster than float32.

    GPUs from Ampere on do, and CPUs with AVX512-BF16 or AMX.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= _AMPERE
    if device.type != "cpu":
        return False
    asked = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    return any(ask is not None and bool(ask()) for ask in asked)
