"""The source of a folder of images, in class folders or flat, with or without folders for the splits.

root/[train|val|test/]class/any/depth/x.jpg     the class is the first folder below the split
root/[train|val|test/]x.jpg                     no classes, unless a labels file names them
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from typing_extensions import override

from tokenstore.errors import Parameter, SourceError
from tokenstore.sources.base import ImageRequest, ImageSource, ImageSplit, Labels, MaskedSplit
from tokenstore.sources.folder_classes import list_classes, unused_label_files
from tokenstore.sources.folders import FolderAtUrl
from tokenstore.sources.image_walk import ImageTree, SkippedEntries, TreeOnDisk, holds_images, walk
from tokenstore.sources.images import EXTENSIONS
from tokenstore.sources.label_file import label_listings
from tokenstore.sources.labels import LabelledImages, Listing
from tokenstore.sources.listings import SavedListings
from tokenstore.sources.mask_folders import (
    MaskFileRequest,
    MaskFolders,
    check_masks,
    find_mask_folders,
    mask_paths,
)
from tokenstore.sources.names import (
    NameBuilder,
    check_range,
    digest,
    printable,
    printable_names,
    sliced,
)
from tokenstore.sources.odd_folders import masks_way
from tokenstore.sources.paired_maps import Pair, refuse_paired_maps
from tokenstore.sources.places import file_at, image_tree
from tokenstore.sources.registry import SourceKind
from tokenstore.sources.remote_tree import RemoteTree
from tokenstore.sources.split_names import (
    DEFAULT_SPLIT,
    group_folders,
    in_usual_order,
    renamed_splits,
    split_of_folder,
)
from tokenstore.storage import public_url


@dataclass(frozen=True)
class ImageFolderSplit(ImageSplit):
    """The images of one split, sorted by the bytes of their paths."""

    tree: ImageTree
    listing: Listing

    @override
    def __len__(self) -> int:
        return len(self.listing)

    @override
    def names(self, start: int, stop: int) -> pa.Array:
        check_range(start, stop, len(self))
        return printable_names(sliced(self.listing.names, start, stop))

    @override
    def labels(self, start: int, stop: int) -> Labels | None:
        check_range(start, stop, len(self))
        return None if self.listing.labels is None else self.listing.labels[start:stop]

    @override
    def fingerprint(self) -> str:
        return digest(self.listing.names, self.listing.labels)

    @override
    def request(self, start: int, stop: int) -> ImageRequest:
        check_range(start, stop, len(self))
        return self.tree.request(sliced(self.listing.names, start, stop).to_pylist())


@dataclass(frozen=True)
class MaskedFolderSplit(ImageFolderSplit, MaskedSplit):
    """The images of one split, each with its label map."""

    folder: bytes
    """The folder of all images, below the tree."""
    mask_tree: ImageTree
    mask_folder: bytes
    """The folder of label maps, below their tree."""

    @override
    def fingerprint(self) -> str:
        return digest(super().fingerprint(), "masks")

    @override
    def masks(self, start: int, stop: int) -> MaskFileRequest:
        check_range(start, stop, len(self))
        names = sliced(self.listing.names, start, stop)
        paths = mask_paths(names, self.folder, self.mask_folder)
        return MaskFileRequest(self.mask_tree, tuple(paths))


def open_imagefolder(
    location: str | Path,
    labels: str | Path | None = None,
    masks: str | Path | None = None,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    no_labels: bool = False,
    source_storage_options: Mapping[str, Any] | None = None,
    listings: SavedListings | None = None,
) -> ImageSource:
    """List a folder of images.

    `labels` is a file of paths and labels, with which folders are no classes; `image_column` and
    `label_column` name its columns. With `no_labels`, neither folders nor a file give labels. `masks` is a
    folder of label maps with the layout of the images' folder, or the name of a folder that each split has
    beside its folder of images. All may be at URLs, for which `source_storage_options` are fsspec's; the
    listings of folders there are saved in `listings`.

    Raises SourceError if the layout does not say which class or split an image belongs to, if there are no
    images, for a label map without an image, and for label maps among the images.
    """
    where, skipped = public_url(str(location)), SkippedEntries()
    if labels is None and (image_column is not None or label_column is not None):
        parameter = Parameter("image_column" if label_column is None else "label_column")
        raise SourceError(f"{where}: {parameter} goes with a labels file", parameters=[parameter])
    tree = image_tree(location, source_storage_options, listings)
    folders = _split_folders(tree, skipped, where)
    renamed = renamed_splits(printable(folder[:-1]) for folder in folders.values())
    places = (
        None if masks is None else find_mask_folders(tree, folders, masks, source_storage_options, listings)
    )
    folders = folders if places is None else places.images
    if labels is None and not no_labels:
        listed = list_classes(tree, folders, skipped, where)
    else:
        names = {split: _names_below(tree, folder, skipped) for split, folder in folders.items()}
        if labels is not None and not no_labels:
            table = file_at(labels, source_storage_options)
            listed = label_listings(table, names, tree.name, image_column, label_column)
        else:
            bare = {split: Listing(of_split, None) for split, of_split in names.items()}
            listed = LabelledImages(bare, None, [])
    by_split = listed.listings
    if not any(map(len, by_split.values())):
        raise SourceError(f"{where}: no images found; looked for names ending in {_endings()}")
    for split, listing in by_split.items():
        if not len(listing):
            raise SourceError(f"{where}: split {split} has no images; remove its folder or fill it")
    notes = (*renamed, *skipped.notes(), *listed.notes)
    unused = () if no_labels or masks is not None else unused_label_files(tree, skipped, by_split)
    if places is not None:
        names = {split: listing.names for split, listing in by_split.items()}
        notes = (*notes, *check_masks(places, names, where))
    splits = {split: _split(tree, split, by_split[split], places) for split in in_usual_order(by_split)}
    if masks is None and labels is None and not no_labels:
        refuse_paired_maps(splits, where, partial(_masks_advice, folders, where))
    return ImageSource("imagefolder", where, splits, listed.class_names, notes, unused)


def _split(tree: ImageTree, split: str, listing: Listing, places: MaskFolders | None) -> ImageFolderSplit:
    if places is None:
        return ImageFolderSplit(tree, listing)
    return MaskedFolderSplit(tree, listing, places.images[split], places.tree, places.masks[split])


def _masks_advice(
    folders: Mapping[str, bytes], where: str, split: str, pair: Pair
) -> tuple[str, Sequence[Parameter]]:
    """Say how to convert images and label maps that lie in a split's folder."""
    start = printable(folders[split])
    maps, images = pair.map_folder, pair.image_folder
    beside = maps and images and "/" not in maps + images and pair.same_stem
    if beside and pair.label_map.startswith(f"{start}{maps}/") and pair.label_map.endswith(".png"):
        text, way = masks_way(where, images, maps, in_splits=bool(start))
        return text, [way]
    way = Parameter("masks")
    text = (
        f"Put the label maps into a folder of their own, whose paths are those of the images but for the "
        f"ending .png, and give it by {way}"
    )
    return text, [way]


def has_images(location: str | Path) -> bool:
    """Return whether an image lies anywhere below a local folder."""
    return holds_images(TreeOnDisk(location), b"")


def _split_folders(tree: ImageTree, skipped: SkippedEntries, where: str) -> Mapping[str, bytes]:
    """Return the folder of each split, as a path below the root; `b""` is the root itself."""
    entries = tree.scan(b"", SkippedEntries())
    folders = [entry for entry in entries if entry.endswith(b"/")]
    if any(split_of_folder(printable(folder[:-1])) for folder in folders):
        filled = [folder for folder in folders if holds_images(tree, folder)]
        grouped = group_folders([os.fsdecode(folder[:-1]) for folder in filled], where)
        if grouped is not None:
            stray = next((entry for entry in entries if not entry.endswith(b"/")), None)
            if stray is not None:
                raise SourceError(
                    f"{where}: image {printable(stray)!r} lies beside the split folders; move it away"
                )
            tree.scan(b"", skipped)
            return {split: os.fsencode(folder) + b"/" for split, folder in grouped.items()}
    return {split_of_folder(tree.name) or DEFAULT_SPLIT: b""}


def _names_below(tree: ImageTree, folder: bytes, skipped: SkippedEntries) -> pa.ChunkedArray:
    names = NameBuilder()
    names.extend(walk(tree, folder, skipped))
    return names.finish()


def _endings() -> str:
    return ", ".join(sorted(EXTENSIONS))


def _folder_has_images(folder: FolderAtUrl) -> bool:
    return holds_images(RemoteTree(folder.place, folder.path, 0, folder.listings), b"")


SOURCE = SourceKind(
    open=open_imagefolder,
    holds=has_images,
    looked_for="images in class folders or flat",
    options=frozenset(
        {"labels", "masks", "image_column", "label_column", "no_labels", "source_storage_options", "listings"}
    ),
    holds_url=_folder_has_images,
)
"""The kind `imagefolder`."""
