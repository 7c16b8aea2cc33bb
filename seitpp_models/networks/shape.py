"""The sizes of what a network takes and gives, and the checks that codes fit them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import nn

from seitpp_models.errors import ModelError
from tokenstore.augment import CodebookEmbedding

__all__ = ["NetworkShape", "Output", "check_grid", "taking_any_grid"]

Output: TypeAlias = Literal["codes", "class", "label map"]
"""The thing that a network's logits are of."""


@dataclass(frozen=True)
class NetworkShape:
    """The sizes of a network's input and output: the `shape` of every network of this package."""

    grid: tuple[int, int] | None
    """The grid (H, W) that the network was built for; None if it takes any."""
    patch: int
    """The side of a patch in tokens, which divides the sides of every grid that the network takes."""
    codebook_size: int | None
    """The number of codes that the network knows; None if it takes the codes' vectors."""
    channels: int
    """The channels of the codes' vectors."""
    classes: int
    """The number of logits; for a masked-token model, the logits of one code."""
    output: Output
    """The thing that the logits are of."""

    @property
    def patches(self) -> tuple[int, int]:
        """The rows and columns of patches of the grid; raises ModelError for a network of any grid."""
        if self.grid is None:
            raise ModelError("expected a network that was built for one grid, found one that takes any")
        return self.grid[0] // self.patch, self.grid[1] // self.patch

    def crop(
        self, grid: tuple[int, ...], where: str, requested: tuple[int, int] | None = None
    ) -> tuple[int, int]:
        """Return the sides (H, W) of the central part of a grid that the network sees.

        They are `requested`, or those the network was built for, or the whole grid. `where` names the codes
        in messages. Raises ModelError if the grid is no plane, if it is smaller than the part, or if patches
        do not fill the part.
        """
        if len(grid) != 2:
            raise ModelError(f"{where}: expected grids (H, W) of one codebook's codes, found {grid}")
        height, width = requested or self.grid or grid
        if height % self.patch or width % self.patch:
            raise ModelError(f"expected a crop of whole patches of {self.patch}, found {(height, width)}")
        if height > grid[0] or width > grid[1]:
            raise ModelError(
                f"{where}: expected grids of at least {(height, width)}, which the network sees, found {grid}"
            )
        return height, width

    def embedding(
        self, codebook_size: int, codebook: npt.NDArray[np.float32] | None, where: str
    ) -> CodebookEmbedding | None:
        """Return the embedding that makes the network's input of codes; None if it takes the codes.

        `where` names the codes in messages. Raises ModelError if the codebook has more codes than the network
        knows, or vectors of other channels than it takes.
        """
        if self.codebook_size is not None:
            if codebook_size > self.codebook_size:
                raise ModelError(
                    f"{where}: expected codes from 0 to {self.codebook_size - 1}, which the network knows, "
                    f"found a codebook of {codebook_size}; train a network on such codes"
                )
            return None
        shape = None if codebook is None else codebook.shape
        if codebook is None or codebook.ndim != 2 or codebook.shape[1] != self.channels:
            raise ModelError(
                f"{where}: expected a codebook of vectors of {self.channels} channels, which the network "
                f"takes, found {'none' if shape is None else f'shape {shape}'}"
            )
        return CodebookEmbedding(codebook)


def check_grid(grid: tuple[int, ...], built_for: tuple[int, ...]) -> None:
    """Raise ValueError if a grid (H, W) is not the one that a network was built for."""
    if tuple(grid) != tuple(built_for):
        raise ValueError(
            f"expected grids of {tuple(built_for)}, which the network was built for, found {tuple(grid)}; "
            f"crop them, or make the network with grid={tuple(grid)}. `with taking_any_grid(network):` "
            "interpolates its positions"
        )


@contextmanager
def taking_any_grid(network: nn.Module) -> Iterator[None]:
    """Let a network take grids of other sizes than it was built for, until the block ends.

    A TokenViT's positions are interpolated; of other networks, those take other grids whose backbone does.
    """
    parts: list[Any] = [part for part in network.modules() if getattr(part, "any_grid", None) is False]
    for part in parts:
        part.any_grid = True
    try:
        yield
    finally:
        for part in parts:
            part.any_grid = False
