"""Hugging Face datasets: an Arrow file, read by batches of indices.

Variants are a feature type and a format:

Array2D torch    what the guide to torch advises for arrays
List numpy       lists of fixed length, with which no value is looked at one by one
List arrow       the same as Arrow tables, whose buffer is taken for an array by hand
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Array2D, Dataset, Features, List, Value, load_from_disk
from torch_batches import whole_batches

PACKAGE = "datasets"


SHAPE = (32, 32)


class Rows(torch.utils.data.Dataset[Any]):
    """Batches (tokens, labels) of a dataset in a format."""

    def __init__(self, dataset: Dataset, how: str) -> None:
        self.dataset = dataset.with_format(how)
        self.how = how

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, indices: list[int]) -> tuple[Any, Any]:
        batch = self.dataset[indices]
        tokens, labels = batch["tokens"], batch["label"]
        if self.how == "arrow":
            # a copy, because torch wants arrays that can be written to
            tokens, labels = tokens.combine_chunks().flatten().to_numpy().copy(), labels.to_numpy().copy()
        return tokens.reshape(-1, *SHAPE), labels


def write(source: Path, files: Path, variant: str) -> None:
    """Write an Arrow data set."""
    codes, labels = np.load(source / "codes.npy", mmap_mode="r"), np.load(source / "labels.npy")
    is_array = variant.startswith("Array2D")
    tokens = Array2D(SHAPE, "uint16") if is_array else List(Value("uint16"), length=codes[0].size)
    features = Features({"tokens": tokens, "label": Value("int32")})

    def rows() -> Iterator[dict[str, Any]]:
        for grid, label in zip(codes, labels.tolist(), strict=True):
            yield {"tokens": grid if is_array else grid.reshape(-1), "label": label}

    cache = files / "cache"
    Dataset.from_generator(rows, features=features, cache_dir=str(cache)).save_to_disk(files / "saved")
    shutil.rmtree(cache)


def epochs(
    files: Path, variant: str, batch_size: int, workers: int, seed: int
) -> Callable[[int], Iterator[tuple[Any, Any]]]:
    """Return a function from epoch number to batches."""
    return whole_batches(Rows(load_from_disk(files / "saved"), variant.split()[1]), batch_size, workers, seed)
