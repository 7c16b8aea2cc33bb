"""The way from embeddings back to codes: the nearest vector of a codebook."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from tokenstore.augment.codebooks import codebook_vectors
from tokenstore.augment.devices import in_float32
from tokenstore.errors import did_you_mean

__all__ = ["Requantise"]

Metric = Literal["cosine", "euclidean"]

_IN_CACHE = 2**18
"""The similarities at once on a CPU: as many as its cache holds."""
_IN_MEMORY = 2**24
"""The similarities at once on other devices."""


class Requantise(nn.Module):
    """The code of the nearest vector (K, C) for each place of embeddings (B, C, *grid): (B, *grid) int64.

    The `metric` is "cosine" similarity, as in SeiT++, or "euclidean" distance. Among equally near codes it is
    the first. At most `chunk` similarities (numbers) are in memory at a time; by default as many as a CPU's
    cache holds, or 2^24 on other devices. Raises ValueError for an unknown metric or a codebook of another
    rank.
    """

    codebook: Tensor
    offsets: Tensor

    def __init__(
        self, codebook: Tensor | npt.NDArray[Any], metric: Metric = "cosine", chunk: int | None = None
    ) -> None:
        super().__init__()
        rows = codebook_vectors(codebook)
        if metric not in get_args(Metric):
            near = did_you_mean(metric, get_args(Metric))
            raise ValueError(f"metric: expected one of {list(get_args(Metric))}, found {metric!r}{near}")
        if metric == "cosine":
            rows = F.normalize(rows, dim=1)
        self.metric, self.chunk = metric, chunk
        self.register_buffer("codebook", rows)
        # |x - c|^2 is least where x.c - |c|^2 / 2 is greatest; for cosine all |c| are 1.
        lengths = rows.square().sum(1) / 2
        self.register_buffer("offsets", torch.zeros_like(lengths) if metric == "cosine" else lengths)

    @torch.no_grad()
    def forward(self, embeddings: Tensor) -> Tensor:
        """Return the nearest codes. Raises ValueError for embeddings of another shape."""
        size, channels = self.codebook.shape
        if embeddings.ndim < 2 or embeddings.shape[1] != channels:
            raise ValueError(f"expected embeddings (B, {channels}, *grid), found {tuple(embeddings.shape)}")
        rows = embeddings.movedim(1, -1).reshape(-1, channels).float()
        nearest = torch.empty(len(rows), dtype=torch.int64, device=rows.device)
        chunk = self.chunk or (_IN_CACHE if rows.device.type == "cpu" else _IN_MEMORY)
        at_once = max(1, chunk // size)
        with in_float32(rows.device):
            for start in range(0, len(rows), at_once):
                part = rows[start : start + at_once]
                scores = torch.addmm(-self.offsets, part, self.codebook.T)
                nearest[start : start + at_once] = scores.argmax(1)
        return nearest.view(len(embeddings), *embeddings.shape[2:])

    @override
    def extra_repr(self) -> str:
        return "{} codes of {} channels, {}".format(*self.codebook.shape, self.metric)
