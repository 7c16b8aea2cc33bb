"""The source of a folder of images, in class folders or flat, with or without folders for the splits.

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
from typing_extensions import override

from tokenstore.errors import SampleError, SourceError
from tokenstore.sources.base import ImageRequest, ImageSource, ImageSplit, Labels, MaskedSplit
from tokenstore.sources.file_bytes import read_file
from tokenstore.sources.image_walk import SkippedEntries, holds_images, scan, walk, with_slash
from tokenstore.sources.images import EXTENSIONS
from tokenstore.sources.label_file import label_listings
from tokenstore.sources.labels import ClassIds, Listing
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
    counted,
    digest,
    printable,
    printable_names,
    sliced,
)
from tokenstore.sources.registry import SourceKind
from tokenstore.sources.split_names import DEFAULT_SPLIT, group_folders, in_usual_order, split_of_folder


@dataclass(frozen=True)
class FileRequest(ImageRequest):
    """A request for some files below one folder."""

    root: bytes
    """The path of the folder, ending in a slash."""
    paths: tuple[bytes, ...]

    @override
    def read(self) -> Sequence[bytes | SampleError]:
        return [read_file(self.root + path) for path in self.paths]


@dataclass(frozen=True)
class ImageFolderSplit(ImageSplit):
    """The images of one split, sorted by the bytes of their paths."""

    root: bytes
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
    def request(self, start: int, stop: int) -> FileRequest:
        check_range(start, stop, len(self))
        return FileRequest(self.root, tuple(sliced(self.listing.names, start, stop).to_pylist()))


@dataclass(frozen=True)
class MaskedFolderSplit(ImageFolderSplit, MaskedSplit):
    """The images of one split, each with its label map."""

    folder: bytes
    """The folder of all images, below the root."""
    mask_folder: bytes
    """The whole path of the folder of label maps."""

    @override
    def fingerprint(self) -> str:
        return digest(super().fingerprint(), "masks")

    @override
    def masks(self, start: int, stop: int) -> MaskFileRequest:
        check_range(start, stop, len(self))
        names = sliced(self.listing.names, start, stop)
        return MaskFileRequest(tuple(mask_paths(names, self.folder, self.mask_folder)))


def open_imagefolder(
    location: str | Path,
    labels: str | Path | None = None,
    masks: str | Path | None = None,
    *,
    no_labels: bool = False,
) -> ImageSource:
    """List a folder of images.

    `labels` is a CSV file of paths and labels, with which folders are no classes. `masks` is a folder of
    label maps with the layout of the images' folder, or the name of a folder that each split has beside its
    folder of images.

    Raises SourceError if the layout does not say which class or split an image belongs to, if there are no
    images, and for a label map without an image.
    """
    root, skipped = with_slash(location), SkippedEntries()
    folders = _split_folders(root, skipped, str(location))
    places = None if masks is None else find_mask_folders(root, folders, masks)
    folders = folders if places is None else places.images
    class_names: tuple[str, ...] | None
    if labels is None and not no_labels:
        listings, class_names = _list_classes(root, folders, skipped)
    else:
        names = {split: _names_below(root, folder, skipped) for split, folder in folders.items()}
        listings, class_names = {split: Listing(listed, None) for split, listed in names.items()}, None
        if labels is not None and not no_labels:
            listings, class_names = label_listings(Path(labels), names)
    if not any(map(len, listings.values())):
        raise SourceError(f"{location}: no images found; looked for names ending in {_endings()}")
    for split, listing in listings.items():
        if not len(listing):
            raise SourceError(f"{location}: split {split} has no images; remove its folder or fill it")
    notes = (*skipped.notes(), *_class_notes(listings, class_names))
    if places is not None:
        names = {split: listing.names for split, listing in listings.items()}
        notes = (*notes, *check_masks(places, names, str(location)))
    splits = {split: _split(root, split, listings[split], places) for split in in_usual_order(listings)}
    return ImageSource("imagefolder", str(location), splits, class_names, notes)


def _split(root: bytes, split: str, listing: Listing, places: MaskFolders | None) -> ImageFolderSplit:
    if places is None:
        return ImageFolderSplit(root, listing)
    return MaskedFolderSplit(root, listing, places.images[split], places.masks[split])


def has_images(location: str | Path) -> bool:
    """Return whether an image lies anywhere below a folder."""
    return holds_images(with_slash(location), b"")


def _split_folders(root: bytes, skipped: SkippedEntries, where: str) -> Mapping[str, bytes]:
    """Return the folder of each split, as a path below the root; `b""` is the root itself."""
    entries = scan(root, b"", SkippedEntries())
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
            scan(root, b"", skipped)
            return {split: os.fsencode(folder) + b"/" for split, folder in grouped.items()}
    return {split_of_folder(Path(where).resolve().name) or DEFAULT_SPLIT: b""}


def _list_classes(
    root: bytes, folders: Mapping[str, bytes], skipped: SkippedEntries
) -> tuple[dict[str, Listing], tuple[str, ...] | None]:
    """List each split with its labels, and return the class names of all."""
    classes, of_splits = ClassIds(), {}
    for split, folder in folders.items():
        of_splits[split] = _list_split(root, folder, classes, skipped)
    listings = {
        split: Listing(names, None if ids is None else classes.final_labels(ids))
        for split, (names, ids) in of_splits.items()
    }
    return listings, classes.sorted_names() if classes else None


def _list_split(
    root: bytes, folder: bytes, classes: ClassIds, skipped: SkippedEntries
) -> tuple[pa.ChunkedArray, Labels | None]:
    """Return the names of a split's images, and the ids of their classes if it has class folders."""
    names, runs = NameBuilder(), []
    entries = scan(root, folder, skipped)
    flat = [entry for entry in entries if not entry.endswith(b"/")]
    for entry in entries:
        if not entry.endswith(b"/"):
            continue
        count = names.extend(walk(root, folder + entry, skipped))
        if not count:
            skipped.empty_classes.add(folder + entry)
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


def _names_below(root: bytes, folder: bytes, skipped: SkippedEntries) -> pa.ChunkedArray:
    names = NameBuilder()
    names.extend(walk(root, folder, skipped))
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


SOURCE = SourceKind(
    open=open_imagefolder,
    holds=has_images,
    looked_for="images in class folders or flat",
    options=frozenset({"labels", "masks", "no_labels"}),
)
"""The kind `imagefolder`."""
