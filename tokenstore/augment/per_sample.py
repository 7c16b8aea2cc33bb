"""Augmentation sample by sample, in whatever process: the same for the same seed, epoch and sample."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tokenstore.randomness import check_key, derived_seed

__all__ = ["PerSample"]


class PerSample:
    """A dataset's `transform` that augments each sample's codes (H, W) by itself.

    `module(codes, None, generator=...)` gets batches of one, with a generator that depends on seed, epoch
    and the sample's place in its store, so that numbers of workers, batches and orders change nothing.
    `set_epoch` reaches workers that were forked or spawned before, too.
    """

    def __init__(self, module: nn.Module, seed: int = 0) -> None:
        check_key(seed)
        self.module = module.eval()
        self.seed = seed
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def set_epoch(self, epoch: int) -> None:
        self._epoch[0] = epoch

    def of_rows(self, rows: npt.NDArray[np.int64], codes: Sequence[Tensor]) -> list[Tensor]:
        """The augmented samples of `rows` of a dataset."""
        epoch = int(self._epoch)
        return [self(code, row, epoch) for code, row in zip(codes, rows.tolist(), strict=True)]

    def __call__(self, codes: Tensor, row: int = 0, epoch: int | None = None) -> Tensor:
        epoch = int(self._epoch) if epoch is None else epoch
        generator = torch.Generator().manual_seed(derived_seed(self.seed, epoch, row))
        inputs, _ = self.module(codes[None], None, generator=generator)
        result: Tensor = inputs[0]
        return result
