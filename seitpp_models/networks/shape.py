"""The sizes of what a network takes and gives, and the checks that codes fit them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from torch import nn

from seitpp_models.errors import ModelError
from seitpp_models.networks.token_form import ArrangedTokens, TokenForm
from tokenstore.augment import TokenVectors

__all__ = ["NetworkShape", "Output", "check_grid", "check_scales", "taking_any_grid"]

Output: TypeAlias = Literal["codes", "class", "label map"]
"""The thing that a network's logits are of."""


@dataclass(frozen=True)
class NetworkShape:
    """The sizes of a network's input and output: the `shape` of every network of this package."""

    grid: tuple[int, int] | None
    """The grid (H, W) that the network was built for; None if it takes any."""
    patch: int
    """The side of a patch in tokens, which divides the sides of every grid that the network takes."""
    codebook_size: int | tuple[int, ...] | None
    """The number of codes that the network knows, of each codebook if a position has several codes; None if
    it takes the codes' vectors, or numbers."""
    channels: int
    """The channels of the codes' vectors."""
    classes: int
    """The number of logits; for a masked-token model, the logits of one code."""
    output: Output
    """The thing that the logits are of."""
    scales: tuple[float, ...] = ()
    """The numbers that the channels of numbers are divided by; empty for codes and vectors."""

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
            raise ModelError(f"{where}: expected grids (H, W) of positions, found {grid}")
        height, width = requested or self.grid or grid
        if height % self.patch or width % self.patch:
            raise ModelError(f"expected a crop of whole patches of {self.patch}, found {(height, width)}")
        if height > grid[0] or width > grid[1]:
            raise ModelError(
                f"{where}: expected grids of at least {(height, width)}, which the network sees, found {grid}"
            )
        return height, width

    def form_of(self, form: TokenForm) -> TokenForm:
        """Return a form of tokens as the network takes it: digits are whole codes for one codebook.

        Raises ModelError if there are more codes, or more codebooks, than the network knows.
        """
        known = self.codebook_size
        if known is None:
            return form
        own = form.of_whole_codes() if isinstance(known, int) else form
        limits = (known,) if isinstance(known, int) else known
        if len(own.codebook_sizes) != len(limits):
            raise ModelError(
                f"{form.where}: expected {len(limits)} codes a position, which the network takes, found "
                f"{len(own.codebook_sizes)}; train a network on such codes"
            )
        for size, limit in zip(own.codebook_sizes, limits, strict=True):
            if size > limit:
                raise ModelError(
                    f"{form.where}: expected codes from 0 to {limit - 1}, which the network knows, found a "
                    f"codebook of {size}; train a network on such codes"
                )
        return own

    def arranged(self, form: TokenForm) -> ArrangedTokens:
        """Return the module from codes of a form to the tokens that the network takes.

        Raises ModelError as `form_of` does.
        """
        return self.form_of(form).arranged(as_codes=self.codebook_size is not None, scales=self.scales)

    def embedding(self, form: TokenForm) -> TokenVectors | None:
        """Return the vectors of tokens of a form that the network takes; None if it takes codes.

        Raises ModelError if the codes have no vectors, or of other channels than the network takes.
        """
        return None if self.codebook_size is not None else form.vectors_of(self.channels)


def check_scales(scales: Sequence[float] | None, channels: int) -> tuple[float, ...]:
    """Return the scales of a network's numbers, none by default; raise ValueError for what are none."""
    found = tuple(float(scale) for scale in scales or ())
    if found and not (len(found) == channels and all(0 < scale < math.inf for scale in found)):
        raise ValueError(f"scales: expected {channels} positive numbers, found {found!s:.80}")
    return found


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
