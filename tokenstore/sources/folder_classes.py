"""The classes of a folder of images: the first folders below each split, unless one of them holds all images.

Tiny ImageNet, for one, has `train/CLASS/images/`, but `val/images/` with the classes in
`val_annotations.txt`.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from tokenstore.errors import Parameter, SourceError
from tokenstore.sources.base import Labels, Note
from tokenstore.sources.image_walk import ImageTree, SkippedEntries, walk
from tokenstore.sources.label_paths import base_names
from tokenstore.sources.label_table import read_label_table
from tokenstore.sources.labels import ClassIds, LabelledImages, Listing
from tokenstore.sources.names import NameBuilder, counted, first_indices, printable
from tokenstore.sources.odd_folders import folders_of_images, refuse_label_maps
from tokenstore.sources.split_names import DEFAULT_SPLIT

_ANNOTATIONS = re.compile(r"(.*[-_.])?annotations\.(txt|tsv|csv)", re.IGNORECASE)
"""The names of files that give the classes of a split's images by their names, one a line."""


@dataclass
class _Part:
    """The images of one split, and the folders that they lie in."""

    names: pa.ChunkedArray
    runs: list[tuple[bytes, int]] = field(default_factory=list)
    """The name of each folder directly below the split, and its number of images; none for a flat split."""


def list_classes(
    tree: ImageTree, folders: Mapping[str, bytes], skipped: SkippedEntries, where: str
) -> LabelledImages:
    """List each split with its labels, by the folders below it, and the class names of all.

    Raises SourceError for images beside class folders, for folders that look like images and label maps, and
    for a folder of images that is no class whose classes do not become clear.
    """
    parts = {split: _list_split(tree, folder, skipped) for split, folder in folders.items()}
    of_splits = {split: [name for name, _ in part.runs] for split, part in parts.items() if part.runs}
    refuse_label_maps(of_splits, where, in_splits=all(folders.values()))
    no_classes = folders_of_images(of_splits, where)
    classes, ids, notes = ClassIds(), dict[str, Labels | None](), list[str]()
    for split in sorted(parts, key=no_classes.__contains__):  # the classes of folders are known first
        part = parts[split]
        if split in no_classes:
            folder = folders[split]
            ids[split], note, used = _annotated(tree, folder, no_classes[split], part.names, classes)
            skipped.label_files.discard(used)
            notes.append(note)
        elif part.runs:
            of_runs = np.array([classes[name] for name, _ in part.runs], np.int32)
            ids[split] = np.repeat(of_runs, [count for _, count in part.runs])
        else:
            ids[split] = None
    listings = {}
    for split, part in parts.items():
        of_split = ids[split]
        listings[split] = Listing(part.names, None if of_split is None else classes.final_labels(of_split))
    class_names = classes.sorted_names() if classes else None
    merged = classes.merged()
    if merged:
        notes.append(f"classes whose names are written in two Unicode forms are one: {', '.join(merged)}")
    return LabelledImages(listings, class_names, [*notes, *_class_notes(listings, class_names)])


def unused_label_files(
    tree: ImageTree, skipped: SkippedEntries, listings: Mapping[str, Listing]
) -> tuple[str, ...]:
    """Return a note on files that may hold labels, if a split has none."""
    if all(listing.labels is not None for listing in listings.values()) or not skipped.label_files:
        return ()
    name = printable(min(skipped.label_files))
    note = counted("files that may hold labels are not used", len(skipped.label_files), name)
    first = tree.where(min(skipped.label_files))
    if first.lower().endswith((".csv", ".tsv", ".txt")):
        parameter = Parameter("labels", first)
        return (Note(f"{note}; {parameter} uses a table of paths and labels", [parameter]),)
    parameter = Parameter("labels")
    return (Note(f"{note}; {parameter} takes a CSV file of paths and labels", [parameter]),)


def _list_split(tree: ImageTree, folder: bytes, skipped: SkippedEntries) -> _Part:
    names, runs = NameBuilder(), []
    entries = tree.scan(folder, skipped)
    flat = next((entry for entry in entries if not entry.endswith(b"/")), None)
    for entry in entries:
        if not entry.endswith(b"/"):
            continue
        count = names.extend(walk(tree, folder + entry, skipped))
        if not count:
            skipped.empty_classes.add(folder + entry)
            continue
        if flat is not None:
            bare = Parameter("no_labels", True)
            raise SourceError(
                f"{tree.where(folder)}: image {printable(flat)!r} lies beside class folder "
                f"{printable(entry[:-1])!r}; move it into a class folder, give a labels file, or leave "
                f"labels out by {bare}",
                parameters=[bare],
            )
        runs.append((entry[:-1], count))
    names.extend(folder + entry for entry in entries if not entry.endswith(b"/"))
    return _Part(names.finish(), runs)


def _annotated(
    tree: ImageTree, folder: bytes, name: bytes, names: pa.ChunkedArray, classes: ClassIds
) -> tuple[Labels | None, str, bytes]:
    """Return the class ids of the images in a split's one folder, a note, and the path of the file read."""
    files = [file for file in tree.table_names(folder) if _ANNOTATIONS.fullmatch(file)]
    shown = printable(folder + name)
    if len(files) != 1:
        return None, f"folder {shown} is that of all images of its split, and no class", b""
    path = folder + os.fsencode(files[0])
    file = tree.file(path)
    table = read_label_table(file, first_two=True)
    at = first_indices(base_names(names), base_names(table.paths))
    missing = np.flatnonzero(at < 0)
    if missing.size:
        example = printable(names[int(missing[0])].as_py())
        raise SourceError(counted(f"{file}: images that are not listed", missing.size, example))
    unique = table.labels.unique()
    words = [word.strip() for word in unique.to_pylist()]
    if b"" in words or (classes and not any(word in classes for word in words)):
        bare = Parameter("no_labels", True)
        raise SourceError(
            f"{file}: expected the class of each image, found {printable(words[0])!r}, and no class of "
            f"another split; leave labels out by {bare}, or give a labels file",
            parameters=[bare],
        )
    ids = np.array([classes[word] for word in words], np.int32)
    note = f"folder {shown} is that of all images of its split; their classes are those in {file.name}"
    return ids[first_indices(table.labels, unique)][at], note, path


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
