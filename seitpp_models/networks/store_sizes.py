"""The sizes that a store sets for a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from seitpp_models.errors import ModelError
from tokenstore.augment import LEAST_CROPPED, seen_size
from tokenstore.errors import Parameter

if TYPE_CHECKING:
    from tokenstore.reading import TokenStore

__all__ = ["StoreSizes", "seen_grid", "sizes_of"]


@dataclass(frozen=True)
class StoreSizes:
    """The sizes of a network that takes a store's codes."""

    grid: tuple[int, int]
    codebook_size: int
    channels: int
    """The length of the codebook's vectors."""
    classes: int | None
    """The number of classes, or None if the store names none."""


def sizes_of(store: TokenStore) -> StoreSizes:
    """Return the sizes for a store.

    Raises ModelError if its codes are no grid (H, W) of one codebook, or it does not contain the codebook.
    """
    manifest, where = store.manifest, store.files.storage.url
    if len(manifest.grid) != 2 or len(manifest.codebook_sizes) != 1:
        raise ModelError(f"{where}: expected grids (H, W) of one codebook, found {manifest.grid}")
    if store.codebook is None:
        vectors = Parameter("codebook")
        raise ModelError(
            f"{where}: expected the tokenizer's codebook, found none; convert the images with a tokenizer "
            f"that has one, or ready codes with the vectors of their codebook by {vectors}",
            parameters=[vectors],
        )
    names = store.class_names
    return StoreSizes(
        manifest.grid,
        manifest.codebook_size,
        store.codebook.shape[1],
        None if names is None else len(names),
    )


def seen_grid(grid: tuple[int, int], patch: int | None = None) -> tuple[tuple[int, int], int]:
    """Return the grid (H, W) that a network sees of a store's grid, and the side of its patches.

    The network sees 7/8 of each side, as 28 of 32, in whole patches. Of a grid with a side below 16 tokens it
    sees everything. The side of a patch is by default 2, and 1 for such small grids.
    """
    patch = patch or (2 if min(grid) >= LEAST_CROPPED else 1)
    return seen_size(grid, patch), patch
