"""A tokenizer whose codes are seen in the image: the brightness of each 8x8 patch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tokenstore.errors import TokenizerError

PATCH = 8


class BrightnessTokenizer:
    """A tokenizer of grey patches: a code is a patch's level."""

    name = "brightness"
    fingerprint = "b" * 64
    codebook_sizes = (256,)
    codebook = np.arange(256, dtype=np.float32)[:, None]
    image_size = 16
    device = torch.device("cpu")
    dtype = None

    def __init__(self) -> None:
        self.batches: list[int] = []

    def grid(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        if input_shape[1] % PATCH or input_shape[2] % PATCH:
            raise TokenizerError(f"expected sides that are multiples of {PATCH}, found {input_shape}")
        return (input_shape[1] // PATCH, input_shape[2] // PATCH)

    def to(self, device: object) -> BrightnessTokenizer:
        return self

    def encode(self, inputs: torch.Tensor) -> torch.Tensor:
        assert inputs.dtype == torch.uint8
        assert inputs.ndim == 4
        self.batches.append(len(inputs))
        rows, columns = self.grid(tuple(inputs.shape[1:]))
        patches = inputs.float().reshape(len(inputs), 3, rows, PATCH, columns, PATCH)
        return patches.mean(dim=(1, 3, 5)).round().long()

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        grey = codes.to(torch.uint8).repeat_interleave(PATCH, 1).repeat_interleave(PATCH, 2)
        return grey[:, None].expand(-1, 3, -1, -1)


def write_grey_image(path: Path, level: int, size: int = 20) -> None:
    """Write an image whose every code is `level`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), (level, level, level)).save(path)


def write_grey_folder(root: Path, per_class: int, classes: int = 3) -> dict[str, tuple[int, int]]:
    """Write a class folder of grey images; return (level, label) by source name."""
    expected = {}
    for label in range(classes):
        for number in range(per_class):
            level = label * per_class + number
            name = f"class-{label}/{number:03d}.png"
            write_grey_image(root / name, level)
            expected[name] = (level, label)
    return expected
