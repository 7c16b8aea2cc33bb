"""The label maps of a folder of images: the PNG files with the images' paths, in a folder of maps.

maps/[train|val|test/]any/depth/x.png           in a folder of their own, with the layout of the images
root/{train,val,test}/maps/any/depth/x.png      or in each split, beside the folder of images
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from typing_extensions import override

from tokenstore.errors import SampleError, SourceError
from tokenstore.sources.base import MaskRequest, PlacedRequest
from tokenstore.sources.image_walk import ImageTree, SkippedEntries, holds_images, walk
from tokenstore.sources.listings import SavedListings
from tokenstore.sources.names import NameBuilder, Tally, counted, first_indices, printable
from tokenstore.sources.places import image_tree
from tokenstore.storage import public_url

_ENDING = b".png"
_EXAMPLES = 5


@dataclass(frozen=True)
class MaskFileRequest(MaskRequest, PlacedRequest):
    """A request for the label maps of some samples, of which some may be missing."""

    tree: ImageTree
    paths: tuple[bytes, ...]
    """The paths below the tree."""

    @property
    @override
    def is_remote(self) -> bool:
        return self.tree.is_remote

    @property
    @override
    def is_shared(self) -> bool:
        return False

    @override
    def read(self) -> Sequence[bytes | SampleError]:
        missing = SampleError("is missing; add it, or remove the image")
        return [missing if each is None else each for each in self.tree.read_files(self.paths)]

    @override
    def where(self, position: int) -> str:
        return self.tree.where(self.paths[position])


@dataclass(frozen=True)
class MaskFolders:
    """The folders of images and of label maps by split, each ending in a slash."""

    images: Mapping[str, bytes]
    """The folders of images, as paths below the images' tree."""
    tree: ImageTree
    """The tree of the label maps."""
    masks: Mapping[str, bytes]
    """The folders of label maps, as paths below their tree."""
    tops: Sequence[bytes]
    """The folders in which every label map has to belong to an image."""


def find_mask_folders(
    tree: ImageTree,
    folders: Mapping[str, bytes],
    masks: str | Path,
    storage_options: Mapping[str, Any] | None,
    listings: SavedListings | None = None,
) -> MaskFolders:
    """Find the label maps of each split's images.

    `masks` is a folder with the layout of the tree, or the name of a folder in the splits.

    Raises SourceError if `masks` is neither, or if it is unclear which folder of a split holds the images.
    """
    name = os.fsencode(masks).rstrip(b"/")
    if b"/" not in name and any(folder and tree.is_folder(folder + name) for folder in folders.values()):
        images = {split: folder + _beside(tree, folder, name + b"/") for split, folder in folders.items()}
        beside = {split: folder + name + b"/" for split, folder in folders.items()}
        tops = [folder for folder in beside.values() if tree.is_folder(folder)]
        return MaskFolders(images, tree, beside, tops)
    where = public_url(str(masks))
    maps = image_tree(masks, storage_options, listings)
    if not maps.is_folder(b""):
        raise SourceError(
            f"{where}: expected a folder of label maps, or the name of one in each split of "
            f"{tree.where(b'')}, found neither. Give the path of the folder"
        )
    if maps.whole.startswith(tree.whole):
        raise SourceError(
            f"{where}: the label maps lie in {tree.where(b'')} and would be read as images. Give the folder "
            "that holds the images alone"
        )
    return MaskFolders(folders, maps, folders, [b""])


def mask_paths(names: pa.Array, folder: bytes, masks: bytes) -> list[bytes]:
    """Return the paths of label maps below their tree, from the images' paths below theirs, `pa.binary()`."""
    return [masks + name[len(folder) :].rpartition(b".")[0] + _ENDING for name in names.to_pylist()]


def check_masks(places: MaskFolders, names: Mapping[str, pa.ChunkedArray], where: str) -> tuple[str, ...]:
    """Compare label maps with images and return notes; raise SourceError for a map without an image.

    `names` are the images' paths by split.
    """
    actual, expected = NameBuilder(), NameBuilder()
    others = Tally(f"files skipped, as names of label maps end in {_ENDING.decode()}")
    for top in places.tops:
        for path in walk(places.tree, top, SkippedEntries()):
            if path.endswith(_ENDING):
                actual.append(path)
            else:
                others.add(os.fsencode(places.tree.where(path)))
    for split, listed in names.items():
        for chunk in listed.chunks:
            expected.extend(mask_paths(chunk, places.images[split], places.masks[split]))
    maps, paths = actual.finish(), expected.finish()
    strays = np.flatnonzero(first_indices(maps, paths) < 0)
    if strays.size:
        examples = ", ".join(places.tree.where(maps[int(row)].as_py()) for row in strays[:_EXAMPLES])
        raise SourceError(
            f"{where}: expected an image for each label map, found none for {strays.size}: {examples}"
            f"{', ...' if strays.size > _EXAMPLES else ''}. A map has its image's path but for the ending; "
            "remove those that have no image, or add the images"
        )
    missing = np.flatnonzero(first_indices(paths, maps) < 0)
    if missing.size:
        example = places.tree.where(paths[int(missing[0])].as_py())
        return (*others.notes(), counted("label maps that are missing", missing.size, example))
    return others.notes()


def _beside(tree: ImageTree, folder: bytes, masks: bytes) -> bytes:
    """Return the one folder of a split, beside that of the label maps, which holds the images."""
    entries = [entry for entry in tree.scan(folder, SkippedEntries()) if entry != masks]
    filled = [entry for entry in entries if not entry.endswith(b"/") or holds_images(tree, folder + entry)]
    if len(filled) != 1 or not filled[0].endswith(b"/"):
        names = ", ".join(printable(entry) for entry in filled[:_EXAMPLES]) or "nothing"
        raise SourceError(
            f"{tree.where(folder)}: expected one folder of images beside {printable(masks)}, found {names}. "
            "Put the images into one folder"
        )
    return filled[0]
