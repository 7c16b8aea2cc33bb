"""The sizes that a store sets for a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from seitpp_models.networks.token_form import form_of
from tokenstore.augment import LEAST_CROPPED, seen_size

if TYPE_CHECKING:
    from tokenstore.reading import TokenStore

__all__ = ["StoreSizes", "seen_grid", "sizes_of"]


@dataclass(frozen=True)
class StoreSizes:
    """The sizes of a network that takes a store's codes."""

    grid: tuple[int, int]
    codebook_size: int | tuple[int, ...]
    """The number of codes, of each codebook if a position has several."""
    channels: int
    """The channels of the tokens' vectors; of codes without vectors, those of vectors to learn."""
    classes: int | None
    """The number of classes, or None if the store names none."""


def sizes_of(store: TokenStore) -> StoreSizes:
    """Return the sizes for a store.

    Raises ModelError if its codes are neither grids (H, W) nor lists (L,).
    """
    form, names = form_of(store), store.class_names
    has_vectors = form.codebook is not None or form.digits is not None or form.numbers is not None
    return StoreSizes(
        form.grid,
        form.codebook_size,
        form.vectors().channels if has_vectors else form.learned_channels,
        None if names is None else len(names),
    )


def seen_grid(grid: tuple[int, int], patch: int | None = None) -> tuple[tuple[int, int], int]:
    """Return the grid (H, W) that a network sees of a store's grid, and the side of its patches.

    The network sees 7/8 of each side, as 28 of 32, in whole patches. Of a grid with a side below 16 tokens it
    sees everything. The side of a patch is by default 2, and 1 for such small grids.
    """
    patch = patch or (2 if min(grid) >= LEAST_CROPPED else 1)
    return seen_size(grid, patch), patch
