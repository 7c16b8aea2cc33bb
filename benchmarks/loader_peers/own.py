"""The contender tokenstore.

A variant is a codec and how it is read:

local        TokenLoader from local disk
ram          TokenLoader, the compressed split in memory
training     the same, and codebook vectors in random resized crops, ready for training
DataLoader   TokenDataset in torch's DataLoader
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

import tokenstore
from tokenstore import TokenDataset, TokenLoader

PACKAGE = "tokenstore"
CROP_SIDE = 28


def write(source: Path, files: Path, variant: str) -> None:
    """Write a store."""
    # here, because reading needs none of these and its memory is measured
    from tokenstore.conversion.convert import convert_source
    from tokenstore.conversion.options import ConvertOptions
    from tokenstore.sources import open_source

    files.rmdir()
    convert_source(open_source(str(source / "seit")), files, options=ConvertOptions(codec=variant.split()[0]))


def epochs(
    files: Path, variant: str, batch_size: int, workers: int, seed: int
) -> Callable[[int], Iterator[Any]]:
    """Return a function from epoch number to batches."""
    how = variant.split()[1]
    dataset = TokenDataset(files)
    if how == "DataLoader":
        loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_size,
            shuffle=True,
            num_workers=workers,
            persistent_workers=workers > 0,
            generator=torch.Generator().manual_seed(seed),
        )
        return lambda _: iter(loader)
    token_loader = TokenLoader(
        dataset,
        batch_size,
        shuffle=True,
        seed=seed,
        num_threads=workers,
        resident=None if how == "local" else "ram",
        batch_transform=training_input(files) if how == "training" else None,
    )

    def batches(epoch: int) -> Iterator[Any]:
        token_loader.set_epoch(epoch)
        return iter(token_loader)

    return batches


def training_input(files: Path) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """Return the transform to vectors in random resized crops."""
    from tokenstore.augment import CroppedEmbedding, RandomResizedCrop

    cropped = CroppedEmbedding(tokenstore.open(files).codebook, RandomResizedCrop(CROP_SIDE))

    def of_batch(
        codes: torch.Tensor, labels: torch.Tensor, *, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return cropped(codes, generator=generator), labels

    return of_batch
