"""Augmentation sample by sample in any process: the same for the same seed, epoch and sample."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tokenstore.randomness import check_key, derived_seed

__all__ = ["PerSample"]


class PerSample:
    """A dataset's `transform` that augments each sample's codes (H, W) alone.

    `module(codes, None, generator=...)` gets batches of one, with a generator that depends on seed, epoch
    and the sample's row number in its store. So the result does not depend on the number of workers, batches
    or the order. The module is put in eval mode. Raises ValueError for a seed that is not a 64-bit integer.
    """

    def __init__(self, module: nn.Module, seed: int = 0) -> None:
        check_key(seed)
        self.module = module.eval()
        self.seed = seed
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, in this process and in workers that were forked or spawned before."""
        self._epoch[0] = epoch

    def of_rows(self, rows: npt.NDArray[np.int64], codes: Sequence[Tensor]) -> list[Tensor]:
        """Return the augmented codes of samples, given their row numbers in the store."""
        epoch = int(self._epoch)
        return [self(code, row, epoch) for code, row in zip(codes, rows.tolist(), strict=True)]

    def __call__(self, codes: Tensor, row: int = 0, epoch: int | None = None) -> Tensor:
        """Return one sample's augmented codes; the epoch is by default that of `set_epoch`."""
        epoch = int(self._epoch) if epoch is None else epoch
        generator = torch.Generator().manual_seed(derived_seed(self.seed, epoch, row))
        inputs, _ = self.module(codes[None], None, generator=generator)
        result: Tensor = inputs[0]
        return result
