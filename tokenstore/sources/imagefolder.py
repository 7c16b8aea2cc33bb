"""A folder of images, in class folders or flat, with or without folders for the splits.

root/[train|val|test/]class/any/depth/x.jpg     the class is the first folder below the split
root/[train|val|test/]x.jpg                     no classes, unless a labels file names them
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from tokenstore.errors import SampleError, SourceError
from tokenstore.sources.base import ImageSource, Labels
from tokenstore.sources.image_walk import PassedOver, holds_images, scan, walk, with_slash
from tokenstore.sources.images import EXTENSIONS
from tokenstore.sources.label_file import label_listings
from tokenstore.sources.listing import (
    ClassIds,
    Listing,
    NameBuilder,
    check_range,
    counted,
    digest,
    printable,
    printable_names,
    read_file,
    rows,
)
from tokenstore.sources.mask_folders import (
    MaskFolders,
    MaskRequest,
    check_masks,
    find_mask_folders,
    mask_paths,
)
from tokenstore.sources.split_names import DEFAULT_SPLIT, group_folders, in_usual_order, split_of_folder


@dataclass(frozen=True)
class FileRequest:
    """Some files below one folder, whose name ends in a slash."""

    root: bytes
    paths: tuple[bytes, ...]

    def read(self) -> Sequence[bytes | SampleError]:
        return [read_file(self.root + path) for path in self.paths]


@dataclass(frozen=True)
class ImageFolderSplit:
    """The images of one split, sorted by the bytes of their paths."""

    root: bytes
    listing: Listing

    def __len__(self) -> int:
        return len(self.listing)

    def names(self, start: int, stop: int) -> pa.Array:
        check_range(start, stop, len(self))
        return printable_names(rows(self.listing.names, start, stop))

    def labels(self, start: int, stop: int) -> Labels | None:
        check_range(start, stop, len(self))
        return None if self.listing.labels is None else self.listing.labels[start:stop]

    def fingerprint(self) -> str:
        return digest(self.listing.names, self.listing.labels)

    def request(self, start: int, stop: int) -> FileRequest:
        check_range(start, stop, len(self))
        return FileRequest(self.root, tuple(rows(self.listing.names, start, stop).to_pylist()))


@dataclass(frozen=True)
class MaskedFolderSplit(ImageFolderSplit):
    """The images of one split, each with its label map."""

    folder: bytes
    """Where all images are, below the root."""
    mask_folder: bytes
    """The whole path of the folder of label maps."""

    def fingerprint(self) -> str:
        return digest(super().fingerprint(), "masks")

    def masks(self, start: int, stop: int) -> MaskRequest:
        check_range(start, stop, len(self))
        names = rows(self.listing.names, start, stop)
        return MaskRequest(tuple(mask_paths(names, self.folder, self.mask_folder)))


def open_imagefolder(
    location: str | Path, labels: str | Path | None = None, masks: str | Path | None = None
) -> ImageSource:
    """List a folder of images; with `labels`, a CSV file of paths and labels, folders are no classes.

    `masks` is a folder of label maps, laid out as that of the images, or the name of one that each split has
    beside a folder of images. Raises SourceError where the layout does not say which class or split an image
    belongs to, and for a label map without an image.
    """
    root, passed = with_slash(location), PassedOver()
    folders = _split_folders(root, passed, str(location))
    places = None if masks is None else find_mask_folders(root, folders, masks)
    folders = folders if places is None else places.images
    class_names: tuple[str, ...] | None
    if labels is None:
        listings, class_names = _list_classes(root, folders, passed)
    else:
        names = {split: _names_below(root, folder, passed) for split, folder in folders.items()}
        listings, class_names = label_listings(Path(labels), names)
    if not any(map(len, listings.values())):
        raise SourceError(f"{location}: no images found; looked for names ending in {_endings()}")
    for split, listing in listings.items():
        if not len(listing):
            raise SourceError(f"{location}: split {split} has no images; remove its folder or fill it")
    notes = (*passed.notes(), *_class_notes(listings, class_names))
    if places is not None:
        found = {split: listing.names for split, listing in listings.items()}
        notes = (*notes, *check_masks(places, found, str(location)))
    splits = {split: _split(root, split, listings[split], places) for split in in_usual_order(listings)}
    return ImageSource("imagefolder", str(location), splits, class_names, notes)


def _split(root: bytes, split: str, listing: Listing, places: MaskFolders | None) -> ImageFolderSplit:
    if places is None:
        return ImageFolderSplit(root, listing)
    return MaskedFolderSplit(root, listing, places.images[split], places.masks[split])


def has_images(location: str | Path) -> bool:
    """Is there an image anywhere below a folder?"""
    return holds_images(with_slash(location), b"")


def _split_folders(root: bytes, passed: PassedOver, where: str) -> Mapping[str, bytes]:
    """Split -> path of its folder below the root, `b""` for the root itself."""
    entries = scan(root, b"", PassedOver())
    folders = [entry for entry in entries if entry.endswith(b"/")]
    if any(split_of_folder(printable(folder[:-1])) for folder in folders):
        filled = [folder for folder in folders if holds_images(root, folder)]
        grouped = group_folders([os.fsdecode(folder[:-1]) for folder in filled], where)
        if grouped is not None:
            stray = next((entry for entry in entries if not entry.endswith(b"/")), None)
            if stray is not None:
                raise SourceError(
                    f"{where}: image {printable(stray)!r} lies beside the split folders; move it away"
                )
            scan(root, b"", passed)
            return {split: os.fsencode(folder) + b"/" for split, folder in grouped.items()}
    return {split_of_folder(Path(where).resolve().name) or DEFAULT_SPLIT: b""}


def _list_classes(
    root: bytes, folders: Mapping[str, bytes], passed: PassedOver
) -> tuple[dict[str, Listing], tuple[str, ...] | None]:
    classes, found = ClassIds(), {}
    for split, folder in folders.items():
        found[split] = _list_split(root, folder, classes, passed)
    listings = {
        split: Listing(names, None if ids is None else classes.final_labels(ids))
        for split, (names, ids) in found.items()
    }
    return listings, classes.sorted_names() if classes else None


def _list_split(
    root: bytes, folder: bytes, classes: ClassIds, passed: PassedOver
) -> tuple[pa.ChunkedArray, Labels | None]:
    """Names of a split's images, and ids of their classes where it has class folders."""
    names, runs = NameBuilder(), []
    entries = scan(root, folder, passed)
    flat = [entry for entry in entries if not entry.endswith(b"/")]
    for entry in entries:
        if not entry.endswith(b"/"):
            continue
        count = names.extend(walk(root, folder + entry, passed))
        if not count:
            passed.empty_classes.add(folder + entry)
            continue
        if flat:
            raise SourceError(
                f"{printable(root + folder)}: image {printable(flat[0])!r} lies beside class "
                f"folder {printable(entry[:-1])!r}; move it into a class folder, or give a labels file"
            )
        runs.append((classes[entry[:-1]], count))
    if flat or not runs:
        names.extend(folder + entry for entry in flat)
        return names.finish(), None
    ids, counts = zip(*runs, strict=True)
    return names.finish(), np.repeat(np.array(ids, np.int32), counts)


def _names_below(root: bytes, folder: bytes, passed: PassedOver) -> pa.ChunkedArray:
    names = NameBuilder()
    names.extend(walk(root, folder, passed))
    return names.finish()


def _class_notes(listings: Mapping[str, Listing], class_names: Sequence[str] | None) -> Iterator[str]:
    if class_names is None:
        return
    folded = Counter(name.casefold() for name in class_names)
    alike = [name for name in class_names if folded[name.casefold()] > 1]
    if alike:
        yield f"classes whose names differ only by case are different classes: {', '.join(alike)}"
    seen = {
        split: np.bincount(listing.labels, minlength=len(class_names)) > 0
        for split, listing in listings.items()
        if listing.labels is not None
    }
    for split, present in seen.items():
        unknown = np.flatnonzero(present & ~seen.get(DEFAULT_SPLIT, present))
        if unknown.size:
            what = f"classes of split {split} that do not occur in {DEFAULT_SPLIT}"
            yield counted(what, unknown.size, class_names[int(unknown[0])])


def _endings() -> str:
    return ", ".join(sorted(EXTENSIONS))
