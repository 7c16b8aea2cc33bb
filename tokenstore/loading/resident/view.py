"""The tokens of a split, or of a view of several splits, compressed in a device's memory."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tokenstore.format import TOKENS
from tokenstore.loading.resident.tokens import ResidentTokens
from tokenstore.reading import Indices, Rows

__all__ = ["ResidentView"]


class ResidentView:
    """The tokens of a split or a view, read into the device's memory once and decoded there.

    Raises StoreError where tokens are stored by neither of the codecs `bitpack` and `context`, and
    DamageError where a store is damaged.
    """

    def __init__(self, rows: Rows, device: torch.device) -> None:
        self._rows = rows
        self._splits = [ResidentTokens(split.arrays[TOKENS], device) for split in rows.splits]

    def read(self, row_numbers: Indices, views: Indices | int | None = None) -> Tensor:
        """Return codes (m, *grid) int64, on the device, of the samples at `row_numbers` (m,), in their order.

        `views`, an integer or integers (m,), are those that are read, by default all: (m, V, *grid). Raises
        IndexError, and DamageError where a sample's bytes are not those that an encoder wrote.
        """
        groups = list(self._rows.by_split(row_numbers))
        codes = torch.cat(
            [
                self._splits[split].read(own, views[places] if isinstance(views, np.ndarray) else views)
                for split, places, own in groups
            ]
        )
        if len(groups) == 1:
            return codes
        places = np.concatenate([places for _, places, _ in groups])
        return codes[torch.from_numpy(np.argsort(places, kind="stable")).to(codes.device)]
