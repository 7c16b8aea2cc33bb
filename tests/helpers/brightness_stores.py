"""Stores of grey images by the tokenizer of brightness."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

import tokenstore
from helpers.brightness import BrightnessTokenizer
from tokenstore.conversion.convert import convert_source
from tokenstore.conversion.options import ConvertOptions
from tokenstore.sources import open_source

LEVELS = 9
"""Images of the class folders: of level 0, 1, 2 ... in the order of the store."""


def converted(source: Path, out: Path, tokenizer: Any = None, **options: Any) -> tokenstore.TokenStore:
    """Convert images to a store by the tokenizer of brightness, or by another."""
    options = {"image_size": 16, "workers": 0, **options}
    tokenizer = tokenizer or BrightnessTokenizer()
    convert_source(open_source(source), out, tokenizer=tokenizer, options=ConvertOptions(**options))
    return tokenstore.open(out)


def levels(images: np.ndarray) -> list[int]:
    """Return the one level of each image."""
    assert (images == images[:, :1, :1, :1]).all()
    return images[:, 0, 0, 0].tolist()


class Line(BrightnessTokenizer):
    """A tokenizer of brightness whose codes are a list of four."""

    def grid(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        return (4,)

    def encode(self, inputs: torch.Tensor) -> torch.Tensor:
        patches = inputs.float().unfold(2, 8, 8).unfold(3, 8, 8).mean((1, 4, 5)).round().long()
        return patches.flatten(1)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return super().decode(codes.reshape(-1, 2, 2))
