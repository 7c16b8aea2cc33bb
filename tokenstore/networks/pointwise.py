"""Pointwise layers, computed by the fastest kernel that torch has for features on a CPU.

`F.linear` multiplies with MKL, which leaves half of an AMD processor's AVX-512 unused. torch's convolutions
multiply with oneDNN, at twice the rate there. A pointwise layer is a convolution of one pixel, so `pointwise`
equals `F.linear` up to rounding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Pointwise", "pointwise"]

_ONEDNN_NUMBERS = 20_480
"""The numbers in an input above which torch computes convolutions with oneDNN."""
_ONEDNN_IS_FASTER = (
    torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    and torch.backends.cpu.get_cpu_capability() == "AVX512"
)
"""True on a processor where MKL is the slower one. A constant, so that torch can compile layers whole."""


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return `F.linear(x, weight, bias)`, (..., n), of features x (..., m), weight (n, m) and bias (n,)."""
    if not _is_faster_by_convolution(x):
        return F.linear(x, weight, bias)
    pixels = x.view(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)
    # subtle: the dilation of one pixel is nothing, but without it torch takes MKL on one thread
    features = F.conv2d(pixels, weight[:, :, None, None], bias, dilation=2)
    return features.permute(0, 2, 3, 1).view(*x.shape[:-1], len(weight))


def _is_faster_by_convolution(x: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.numel() > _ONEDNN_NUMBERS
        and x.is_contiguous()
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and _ONEDNN_IS_FASTER
    )


class Pointwise(nn.Linear):
    """A linear layer of the last axis, (..., m) to (..., n), that infers by `pointwise`."""

    def forward(self, input: Tensor) -> Tensor:
        """Return features (..., n) of features (..., m)."""
        return pointwise(input, self.weight, self.bias)
