"""zarr-python, reading a tokenstore store of the codec zstd, a batch of indices a call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from torch.utils.data import Dataset
from torch_batches import whole_batches

PACKAGE = "zarr"


class ZarrRows(Dataset[Any]):
    """Batches (tokens, labels) of a store; the arrays are opened in the process that reads them."""

    def __init__(self, files: Path) -> None:
        self.files = files

    @cached_property
    def arrays(self) -> tuple[Any, np.ndarray]:
        """The opened arrays: tokens and labels."""
        group = zarr.open_group(self.files, mode="r")
        return group["train/tokens"], group["train/labels"][:]

    def __len__(self) -> int:
        return int(zarr.open_array(self.files / "train" / "labels", mode="r").shape[0])

    def __getitem__(self, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        tokens, labels = self.arrays
        return torch.from_numpy(tokens.oindex[np.array(indices)]), torch.from_numpy(labels[indices])


def write(source: Path, files: Path, variant: str) -> None:
    """Raise NotImplementedError, for this peer reads the store that tokenstore writes."""
    raise NotImplementedError("reads the store that tokenstore writes")


def epochs(
    files: Path, variant: str, batch_size: int, workers: int, seed: int
) -> Callable[[int], Iterator[Any]]:
    """Return a function from epoch number to batches."""
    return whole_batches(ZarrRows(files), batch_size, workers, seed)
