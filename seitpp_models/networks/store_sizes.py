"""Sizes of networks, read off a store."""

from __future__ import annotations

from dataclasses import dataclass

from seitpp_models.errors import ModelError
from tokenstore.reading import TokenStore

__all__ = ["StoreSizes", "seen_grid", "sizes_of"]

_LEAST_CROPPED = 16


@dataclass(frozen=True)
class StoreSizes:
    """What a store says of networks for it."""

    grid: tuple[int, int]
    codebook_size: int
    channels: int
    """Of the codebook's vectors."""
    classes: int | None
    """None where the store names none."""


def sizes_of(store: TokenStore) -> StoreSizes:
    """Raises ModelError where the codes are no grid (H, W) of one codebook, or the store does not hold it."""
    manifest, where = store.manifest, store.files.storage.url
    if len(manifest.grid) != 2 or len(manifest.codebook_sizes) != 1:
        raise ModelError(f"{where}: expected grids (H, W) of one codebook, found {manifest.grid}")
    if store.codebook is None:
        raise ModelError(
            f"{where}: expected the tokenizer's codebook, found none; convert the images with a tokenizer "
            "that has one"
        )
    names = store.class_names
    return StoreSizes(
        manifest.grid,
        manifest.codebook_size,
        store.codebook.shape[1],
        None if names is None else len(names),
    )


def seen_grid(grid: tuple[int, int], patch: int | None = None) -> tuple[tuple[int, int], int]:
    """What a network sees of a store's grid, and its patch, by default 2 or, of fewer than 16 tokens, 1.

    It is 7/8 of each side, as 28 of 32, in whole patches, or all where there are fewer than 16 tokens.
    """
    patch = patch or (2 if min(grid) >= _LEAST_CROPPED else 1)
    if min(grid) < _LEAST_CROPPED:
        return grid, patch
    rows, columns = (7 * side // 8 // patch * patch for side in grid)
    return (rows, columns), patch
