"""The part of a grid that networks usually see, and crops of that size for grids of any size."""

from __future__ import annotations

from torch import Tensor, nn
from typing_extensions import override

from tokenstore.augment.crops import CenterCrop, RandomResizedCrop

__all__ = ["CentralPart", "RandomPart", "seen_size"]

LEAST_CROPPED = 16
"""The side of a grid, in tokens, below which networks see all of it."""
_PATCH = 2
"""The side of a patch that networks have by default on grids that are not seen whole."""


def seen_size(grid: tuple[int, int], patch: int = _PATCH) -> tuple[int, int]:
    """Return the size (h, w) that networks usually see of a grid (H, W): 7/8 of each side in whole patches.

    So it is 28 of 32, as published. Of a grid with a side below 16 tokens networks see everything.
    """
    if min(grid) < LEAST_CROPPED:
        return grid
    rows, columns = (7 * side // 8 // patch * patch for side in grid)
    return rows, columns


class RandomPart(RandomResizedCrop):
    """A random resized crop to the size that networks usually see of each grid (`seen_size`).

    A grid may have `places` positions a side for each token, as maps of TokenAdapt have.
    """

    def __init__(self, scale: tuple[float, float] = (0.08, 1.0), places: int = 1) -> None:
        super().__init__(1, scale)
        self.places = places

    @override
    def size_of(self, grid: tuple[int, int]) -> tuple[int, int]:
        rows, columns = seen_size((grid[0] // self.places, grid[1] // self.places))
        return self.places * rows, self.places * columns

    @override
    def extra_repr(self) -> str:
        seen = f"{self.places} x the part" if self.places > 1 else "the part"
        return f"{seen} that networks see, scale={self.scale}, ratio={self.ratio}, {self.interpolation}"


class CentralPart(nn.Module):
    """The central part that networks usually see of codes, embeddings or masks (..., H, W), as a view."""

    def forward(self, grids: Tensor) -> Tensor:
        """Return the central part of each grid (..., *seen_size((H, W)))."""
        part: Tensor = CenterCrop(seen_size((grids.shape[-2], grids.shape[-1])))(grids)
        return part

    @override
    def extra_repr(self) -> str:
        return "the part that networks see"
