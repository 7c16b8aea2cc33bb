"""Which label map belongs to which image of a folder: the PNG file that has its path in a folder of maps.

maps/[train|val|test/]any/depth/x.png           in a folder of their own, laid out as that of the images
root/{train,val,test}/maps/any/depth/x.png      or in each split, beside its folder of images
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from tokenstore.errors import SampleError, SourceError
from tokenstore.sources.image_walk import PassedOver, holds_images, scan, walk, with_slash
from tokenstore.sources.listing import NameBuilder, Tally, counted, indices, printable, read_file

_ENDING = b".png"
_SHOWN = 5


@dataclass(frozen=True)
class MaskRequest:
    """The label maps of some samples, whether they are there or not."""

    paths: tuple[bytes, ...]

    def read(self) -> Sequence[bytes | SampleError]:
        missing = SampleError("is missing; add it, or remove the image")
        return [read_file(path) if os.path.lexists(path) else missing for path in self.paths]

    def where(self, position: int) -> str:
        return printable(self.paths[position])


@dataclass(frozen=True)
class MaskFolders:
    """Folders by split, each ending in a slash: of the images, below the root; of their label maps, whole."""

    images: Mapping[str, bytes]
    masks: Mapping[str, bytes]
    tops: Sequence[bytes]
    """Where every label map has to belong to an image."""


def find_mask_folders(root: bytes, folders: Mapping[str, bytes], masks: str | Path) -> MaskFolders:
    """Where the images of each split's folder have their label maps.

    `masks` is a folder laid out as the root, or the name of a folder in the splits. Raises SourceError where
    it is neither, or where it is unclear which folder of a split holds its images.
    """
    name = os.fsencode(masks).rstrip(b"/")
    if b"/" not in name and any(folder and _is_folder(root + folder + name) for folder in folders.values()):
        images = {split: folder + _beside(root + folder, name + b"/") for split, folder in folders.items()}
        beside = {split: root + folder + name + b"/" for split, folder in folders.items()}
        return MaskFolders(images, beside, [folder for folder in beside.values() if _is_folder(folder)])
    if not _is_folder(name):
        raise SourceError(
            f"{masks}: expected a folder of label maps, or the name of one in each split of "
            f"{printable(root)}, found neither. Give the path of the folder"
        )
    if Path(masks).resolve().is_relative_to(Path(os.fsdecode(root)).resolve()):
        raise SourceError(
            f"{masks}: the label maps lie in {printable(root)} and would be read as images. Give the folder "
            "that holds the images alone"
        )
    below = with_slash(masks)
    return MaskFolders(folders, {split: below + folder for split, folder in folders.items()}, [below])


def mask_paths(names: pa.Array, folder: bytes, masks: bytes) -> list[bytes]:
    """Whole paths of the label maps of images, from the images' paths below the root, `pa.binary()`."""
    return [masks + name[len(folder) :].rpartition(b".")[0] + _ENDING for name in names.to_pylist()]


def check_masks(places: MaskFolders, names: Mapping[str, pa.ChunkedArray], where: str) -> tuple[str, ...]:
    """Notes on the label maps of the images named by split; raises SourceError for maps of no image."""
    found, wanted = NameBuilder(), NameBuilder()
    others = Tally(f"files passed over, as names of label maps end in {_ENDING.decode()}")
    for top in places.tops:
        for path in walk(top, b"", PassedOver()):
            if path.endswith(_ENDING):
                found.append(top + path)
            else:
                others.add(top + path)
    for split, listed in names.items():
        for chunk in listed.chunks:
            wanted.extend(mask_paths(chunk, places.images[split], places.masks[split]))
    maps, expected = found.finish(), wanted.finish()
    strays = np.flatnonzero(indices(maps, expected) < 0)
    if strays.size:
        shown = ", ".join(printable(maps[int(row)].as_py()) for row in strays[:_SHOWN])
        raise SourceError(
            f"{where}: expected an image for each label map, found none for {strays.size}: {shown}"
            f"{', ...' if strays.size > _SHOWN else ''}. A map has its image's path but for the ending; "
            "remove those that have no image, or add the images"
        )
    missing = np.flatnonzero(indices(expected, maps) < 0)
    if missing.size:
        example = printable(expected[int(missing[0])].as_py())
        return (*others.notes(), counted("label maps that are missing", missing.size, example))
    return others.notes()


def _beside(folder: bytes, masks: bytes) -> bytes:
    """The one folder that holds a split's images, beside that of its label maps."""
    entries = [entry for entry in scan(folder, b"", PassedOver()) if entry != masks]
    filled = [entry for entry in entries if not entry.endswith(b"/") or holds_images(folder, entry)]
    if len(filled) != 1 or not filled[0].endswith(b"/"):
        found = ", ".join(printable(entry) for entry in filled[:_SHOWN]) or "nothing"
        raise SourceError(
            f"{printable(folder)}: expected one folder of images beside {printable(masks)}, found {found}. "
            "Put the images into one folder"
        )
    return filled[0]


def _is_folder(path: bytes) -> bool:
    return Path(os.fsdecode(path)).is_dir()
