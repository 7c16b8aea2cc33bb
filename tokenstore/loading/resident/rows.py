"""Rows whose tokens are in a device's memory, and whose other columns are in this process's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenstore.format.layout import TOKENS
from tokenstore.loading.resident.tokens import ResidentTokens
from tokenstore.reading import Concatenated, Indices, Rows, SplitReader, Subset, Values

__all__ = ["DeviceRows"]


class DeviceRows:
    """A split or a view, read once; tokens are decoded on the device.

    Raises StoreError where tokens are stored by neither of the codecs `bitpack` and `context`, DamageError.
    """

    is_local = True

    def __init__(self, rows: Rows, columns: Sequence[str], device: torch.device) -> None:
        self._others = rows.in_memory([name for name in columns if name != TOKENS])
        self._tokens = _device_tokens(rows, device)

    def tokens(self, indices: Indices) -> Tensor:
        """Codes (m, *grid) int64, on the device, of the samples at `indices` (m,)."""
        codes: Tensor = self._tokens.read(indices)
        return codes

    def read(self, name: str, indices: Indices, out: Values | None = None, prefetched: Any = None) -> Values:
        """Values (m, *shape) of another column, in this process's memory."""
        return self._others.read(name, indices, out, prefetched)

    def reserve_cache(self, nbytes: int) -> None:
        """Nothing is fetched."""


class _SelectedTokens:
    def __init__(self, tokens: Any, indices: Indices) -> None:
        self._tokens = tokens
        self._indices = indices

    def read(self, indices: Indices) -> Tensor:
        codes: Tensor = self._tokens.read(self._indices[indices])
        return codes


class _ConcatenatedTokens:
    def __init__(self, parts: Sequence[Any], stops: Indices) -> None:
        self._parts = parts
        self._stops = stops

    def read(self, indices: Indices) -> Tensor:
        part_of = np.searchsorted(self._stops, indices, side="right")
        places, codes = [], []
        for part in np.unique(part_of).tolist():
            here = np.flatnonzero(part_of == part)
            before = self._stops[part - 1] if part else 0
            places.append(here)
            codes.append(self._parts[part].read(indices[here] - before))
        joined = torch.cat(codes)
        back = torch.from_numpy(np.argsort(np.concatenate(places), kind="stable"))
        return joined if len(codes) == 1 else joined[back.to(joined.device)]


def _device_tokens(rows: Rows, device: torch.device) -> Any:
    match rows:
        case SplitReader():
            return ResidentTokens(rows.arrays[TOKENS], device)
        case Subset():
            return _SelectedTokens(_device_tokens(rows.rows, device), rows.indices)
        case Concatenated():
            parts = [_device_tokens(part, device) for part in rows.parts]
            return _ConcatenatedTokens(parts, np.cumsum([len(part) for part in rows.parts]))
    raise TypeError(f"expected a split or a view of splits, found {rows!r}")
