"""The look-ups of codes in a learned table, as published tokenizers have them: one class for each.

Every look-up takes latents (B, D, h, w) to codes (B, h, w) int64, and codes to vectors (B, D, h, w). Its
tensors have the names that they have in checkpoints. The code of a position depends on the latent there
alone, and of equal candidates the lowest code is taken.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from tokenstore.tokenizers.quantisers import nearest
from tokenstore.tokenizers.similarities import most_similar

__all__ = ["LOOKUPS", "Cosine", "DotProduct", "Euclidean", "Gumbel", "Lookup"]


class Lookup(nn.Module):
    """The base of the look-ups: K vectors of D channels, and a rule for the one that a latent becomes."""

    kind: ClassVar[str]
    """The name of the rule; it is part of a tokenizer's fingerprint."""
    table_name: ClassVar[str] = "embedding.weight"
    """The name of the table (K, D) among the look-up's tensors."""

    @property
    @abstractmethod
    def table(self) -> Tensor:
        """The vectors (K, D) that codes stand for."""

    @abstractmethod
    def codes_of_rows(self, rows: Tensor) -> Tensor:
        """Return codes (N,) int64 of latents (N, D)."""

    def codes(self, latents: Tensor) -> Tensor:
        """Return codes (B, h, w) int64 of latents (B, D, h, w)."""
        rows = latents.permute(0, 2, 3, 1)
        return self.codes_of_rows(rows.flatten(0, 2)).view(rows.shape[:3])

    def vectors(self, codes: Tensor) -> Tensor:
        """Return vectors (B, D, h, w) of codes (B, h, w), all in range."""
        return F.embedding(codes, self.table).permute(0, 3, 1, 2)

    @property
    def codebook(self) -> npt.NDArray[np.float32]:
        """The vectors that codes stand for, (K, D)."""
        return self.table.detach().cpu().numpy().copy()


class _Embedded(Lookup):
    """A look-up whose only tensor is the table `embedding.weight`."""

    def __init__(self, size: int, dimensions: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(size, dimensions)

    @property
    @override
    def table(self) -> Tensor:
        return self.embedding.weight


class Euclidean(_Embedded):
    """The vector at the smallest Euclidean distance (van den Oord et al. 2017, arXiv 1711.00937)."""

    kind = "euclidean"

    @override
    def codes_of_rows(self, rows: Tensor) -> Tensor:
        return nearest(rows, self.table)


class Cosine(_Embedded):
    """The vector of the largest cosine similarity; vectors count, and are decoded, by direction alone."""

    kind = "cosine"

    @property
    @override
    def table(self) -> Tensor:
        return F.normalize(self.embedding.weight, dim=1)

    @override
    def codes_of_rows(self, rows: Tensor) -> Tensor:
        return most_similar(F.normalize(rows, dim=1), self.table)


class DotProduct(_Embedded):
    """The vector of the largest dot product (index back-propagation, Shi et al. 2024, arXiv 2412.02692)."""

    kind = "dot"

    @override
    def codes_of_rows(self, rows: Tensor) -> Tensor:
        return most_similar(rows, self.table)


class Gumbel(Lookup):
    """The largest of K logits that a 1x1 convolution gives (Ramesh et al. 2021, arXiv 2102.12092)."""

    kind = "gumbel"
    table_name = "embed.weight"

    def __init__(self, size: int, dimensions: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(dimensions, size, 1)
        self.embed = nn.Embedding(size, dimensions)

    @property
    @override
    def table(self) -> Tensor:
        return self.embed.weight

    @override
    def codes_of_rows(self, rows: Tensor) -> Tensor:
        return most_similar(rows, self.proj.weight.flatten(1), self.proj.bias)


LOOKUPS: dict[str, type[Lookup]] = {lookup.kind: lookup for lookup in (Euclidean, Cosine, DotProduct, Gumbel)}
"""The look-ups by name."""
