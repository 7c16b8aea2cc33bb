"""The layout of the SeiT release, read as its published loader reads it, stated anew from its description.

The gzipped stream of escaped codes is unpacked into memory; each sample is cut out by the index and its bytes
are turned into codes one by one. The variant `training` goes on as for training: codes become a one-hot float
map (K, H, W), of which a random resized crop is taken, sample by sample.
"""

from __future__ import annotations

import gzip
import io
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import interpolate, one_hot
from torch.utils.data import DataLoader, Dataset

PACKAGE = "torch"
SIDE = 32
ESCAPE = 255
CROP_SIDE = 28
SCALE = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)
TRIES = 10


class SeitLayout(Dataset[Any]):
    """Samples of a folder in the layout: (tokens (32, 32) int64, label), or (one-hot crop, label)."""

    def __init__(self, folder: Path, crop: bool) -> None:
        name = str(next(folder.glob("*-token.data.bin.gz"))).removesuffix("-token.data.bin.gz")
        self.data = gzip.decompress(Path(f"{name}-token.data.bin.gz").read_bytes())
        index = gzip.decompress(Path(f"{name}-token.index.npy.gz").read_bytes())
        self.offsets = np.load(io.BytesIO(index), allow_pickle=False)
        self.labels = [int(line) for line in Path(f"{name}-label.txt").read_text().split()]
        self.codebook_size = len(json.loads((folder / "synonyms.json").read_bytes()))
        self.crop = crop

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        tokens = self.tokens(index)
        return (random_resized_crop(self.one_hot(tokens)) if self.crop else tokens), self.labels[index]

    def tokens(self, index: int) -> torch.Tensor:
        """Return the codes (32, 32) int64 of a sample."""
        codes, escaped = [], False
        for byte in self.data[self.offsets[index] : self.offsets[index + 1]]:
            if escaped:
                codes.append(ESCAPE + byte)
                escaped = False
            elif byte == ESCAPE:
                escaped = True
            else:
                codes.append(byte)
        return torch.tensor(codes).reshape(SIDE, SIDE)

    def one_hot(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the one-hot map (K, 32, 32) of codes."""
        return one_hot(tokens, self.codebook_size).permute(2, 0, 1).float()


def random_resized_crop(image: torch.Tensor) -> torch.Tensor:
    """Cut a box of random area and shape out of an image (C, H, W) and resize it to (C, 28, 28), bicubic."""
    height, width = image.shape[1:]
    for _ in range(TRIES):
        area = height * width * torch.empty(()).uniform_(*SCALE).item()
        ratio = math.exp(torch.empty(()).uniform_(*map(math.log, RATIO)).item())
        rows, columns = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < rows <= height and 0 < columns <= width:
            break
    else:
        rows, columns = height, width
    top = int(torch.randint(height - rows + 1, ()))
    left = int(torch.randint(width - columns + 1, ()))
    box = image[None, :, top : top + rows, left : left + columns]
    return interpolate(box, (CROP_SIDE, CROP_SIDE), mode="bicubic", align_corners=False)[0]


def write(source: Path, files: Path, variant: str) -> None:
    """Raise NotImplementedError, for the tiled data is in this layout already."""
    raise NotImplementedError("the tiled data is in this layout already")


def epochs(
    files: Path, variant: str, batch_size: int, workers: int, seed: int
) -> Callable[[int], Iterator[Any]]:
    """Return a function from epoch number to batches."""
    torch.manual_seed(seed)
    loader: DataLoader[Any] = DataLoader(
        SeitLayout(files, variant == "training"),
        batch_size,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    return lambda _: iter(loader)
