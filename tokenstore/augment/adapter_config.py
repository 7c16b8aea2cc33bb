"""The sizes of a TokenAdapt."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tokenstore.errors import AdapterError

__all__ = ["AdapterConfig", "described_sizes"]


@dataclass(frozen=True)
class AdapterConfig:
    """The sizes of a TokenAdapt, by default those of SeiT++. Raises AdapterError for sizes that don't fit."""

    codebook_size: int | tuple[int, ...] = 391
    """The number of codes that g tells apart; one number for each of several codebooks.

    Without any codebook g gives the numbers of the embedding.
    """
    channels: int = 32
    """The channels of a token's embedding, and of the adapted map."""
    grid: tuple[int, int] = (32, 32)
    """The grid (H, W) that f takes."""
    size: tuple[int, int] = (28, 28)
    """The grid (h, w) that g gives."""
    width: int = 384
    heads: int = 6
    mlp: int = 1536
    depth: int = 1
    scales: tuple[float, ...] = ()
    """The numbers that channels of numbers are divided by, in what f takes and g gives; empty for codes."""

    def __post_init__(self) -> None:
        for name in ("grid", "size", "scales"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.scales and not (
            len(self.scales) == self.channels and all(0 < scale < math.inf for scale in self.scales)
        ):
            raise AdapterError(f"expected {self.channels} scales above 0, found {self.scales!s:.80}")
        if not isinstance(self.codebook_size, int):
            object.__setattr__(self, "codebook_size", tuple(self.codebook_size))
        numbers = (
            *self.codebook_sizes,
            self.channels,
            *self.grid,
            *self.size,
            self.heads,
            self.mlp,
            self.depth,
        )
        if min(numbers) < 1 or self.width < 4 or self.width % 4 or len(self.grid) != 2 or len(self.size) != 2:
            raise AdapterError(f"expected positive sizes and a width that is a multiple of 4, found {self}")

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """The number of codes of each codebook; empty where g gives numbers."""
        return self.codebook_size if isinstance(self.codebook_size, tuple) else (self.codebook_size,)

    @property
    def outputs(self) -> int:
        """The numbers that g gives for each token: logits of all codebooks' codes, or the embedding's."""
        return sum(self.codebook_sizes) or self.channels


def described_sizes(sizes: tuple[int, ...]) -> str:
    """Return the sizes of codebooks in words."""
    if not sizes:
        return "numbers"
    return f"{sizes[0]} codes" if len(sizes) == 1 else f"{len(sizes)} codebooks of {sizes} codes"
