"""Slow re-statements of the layers of convolutional tokenizers, in float64 and without torch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Weights = Mapping[str, Array]


def conv(
    x: Array, weights: Weights, name: str, stride: int = 1, pads: tuple[int, int] | None = None
) -> Array:
    """Return the convolution of x (C, H, W), with zeros before and behind each axis (by default as many)."""
    kernel = weights[f"{name}.weight"]
    side = kernel.shape[2]
    padded = np.pad(x, ((0, 0), pads or (side // 2,) * 2, pads or (side // 2,) * 2))
    height, width = ((size - side) // stride + 1 for size in padded.shape[1:])
    out = np.zeros((len(kernel), height, width))
    for top in range(height):
        for left in range(width):
            window = padded[:, stride * top : stride * top + side, stride * left : stride * left + side]
            out[:, top, left] = np.tensordot(kernel, window, axes=3)
    return out + weights.get(f"{name}.bias", np.zeros(len(kernel)))[:, None, None]


def group_norm(x: Array, weights: Weights, name: str | None, groups: int = 32) -> Array:
    """Return x (C, H, W) with each group of channels of mean 0 and variance 1, then scaled and shifted."""
    out = np.empty_like(x)
    for channels in np.split(np.arange(len(x)), groups):
        part = x[channels]
        out[channels] = (part - part.mean()) / np.sqrt(part.var() + 1e-6)
    if name is None:
        return out
    return out * weights[f"{name}.weight"][:, None, None] + weights[f"{name}.bias"][:, None, None]


def swish(x: Array) -> Array:
    """Return x times its logistic function."""
    return x / (1 + np.exp(-x))


def layer_norm(x: Array, weights: Weights, name: str) -> Array:
    """Return rows x (N, C) of mean 0 and variance 1, then scaled and shifted."""
    scaled = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def softmax(x: Array) -> Array:
    """Return the shares of each row of x (N, M)."""
    shares = np.exp(x - x.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)


def doubled(x: Array) -> Array:
    """Return x (C, H, W) with each value four times, as (C, 2 H, 2 W)."""
    return x.repeat(2, axis=1).repeat(2, axis=2)
