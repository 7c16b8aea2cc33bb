"""Images in tar files: WebDataset shards, or image folders as tar files.

A sample is the neighbouring members whose paths agree up to the first dot of the base name. One of them is
the image; its label is the text of `.cls`, or "label", "cls" or "class" in `.json`. Where no sample has a
label, the folders inside the tar files are splits and classes as in a folder of images.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tokenstore.errors import SampleError, SourceError
from tokenstore.sources.base import ImageSource, Labels
from tokenstore.sources.listing import (
    MAX_FILE_BYTES,
    check_range,
    digest,
    indices,
    label_splits,
    printable,
    printable_names,
    rows,
)
from tokenstore.sources.shard_files import find_shards
from tokenstore.sources.split_names import group_folders, in_usual_order, split_of_folder
from tokenstore.sources.tar_index import PassedOver, TarIndex, index_tars

ENDINGS = (".tar",)


@dataclass(frozen=True)
class TarRequest:
    """Byte ranges of tar files: (number of the path, offset, size) of each sample."""

    paths: tuple[str, ...]
    ranges: tuple[tuple[int, int, int], ...]

    def read(self) -> Sequence[bytes | SampleError]:
        found: list[bytes | SampleError] = []
        descriptors: dict[int, int] = {}
        try:
            for shard, offset, size in self.ranges:
                found.append(self._read_one(descriptors, shard, offset, size))
        finally:
            for descriptor in descriptors.values():
                os.close(descriptor)
        return found

    def _read_one(
        self, descriptors: dict[int, int], shard: int, offset: int, size: int
    ) -> bytes | SampleError:
        if size > MAX_FILE_BYTES:
            return SampleError(f"{size} bytes are more than the {MAX_FILE_BYTES} allowed")
        try:
            if shard not in descriptors:
                descriptors[shard] = os.open(self.paths[shard], os.O_RDONLY)
            data = os.pread(descriptors[shard], size, offset)
        except OSError as error:
            return SampleError(f"{self.paths[shard]} cannot be read: {error.strerror or error}")
        return data if len(data) == size else SampleError(f"{self.paths[shard]} ends within the sample")


@dataclass(frozen=True)
class TarSplit:
    """The images of one split, in the order of the tar files and of their members."""

    paths: tuple[Path, ...]
    index: TarIndex
    all_labels: Labels | None

    def __len__(self) -> int:
        return len(self.index)

    def names(self, start: int, stop: int) -> pa.Array:
        check_range(start, stop, len(self))
        files = pa.array([printable(os.fsencode(path.name)) for path in self.paths], pa.string())
        files = files.take(pa.array(self.index.shards[start:stop]))
        return pc.binary_join_element_wise(files, printable_names(rows(self.index.members, start, stop)), "/")

    def labels(self, start: int, stop: int) -> Labels | None:
        check_range(start, stop, len(self))
        return None if self.all_labels is None else self.all_labels[start:stop]

    def fingerprint(self) -> str:
        index, files = self.index, repr([path.name for path in self.paths])
        return digest(index.members, self.all_labels, index.shards, index.offsets, index.sizes, files)

    def request(self, start: int, stop: int) -> TarRequest:
        check_range(start, stop, len(self))
        index = self.index
        used, shards = np.unique(index.shards[start:stop], return_inverse=True)
        columns = shards, index.offsets[start:stop], index.sizes[start:stop]
        ranges = tuple(zip(*(column.tolist() for column in columns), strict=True))
        return TarRequest(tuple(str(self.paths[shard]) for shard in used), ranges)


def open_tar(location: str | Path) -> ImageSource:
    """Index tar files: one, a pattern such as `train-{000..099}.tar`, or a folder of them.

    Raises SourceError for files that are no tar, compressed or cut off, for keys that occur twice, and
    where some samples have labels and others not.
    """
    shards, passed = find_shards(location, ENDINGS), PassedOver()
    parts: dict[str, _Part] = {}
    for split, paths in shards.splits.items():
        index, texts = index_tars(paths, passed)
        if not len(index):
            raise SourceError(f"{location}: no images in the tar files of split {split}")
        for inner, part in _inner_parts(paths, index, texts, str(location)).items():
            if shards.named and inner not in (None, split):
                raise SourceError(f"{paths[0]}: split {split} by its name, but holds a folder for {inner}")
            parts[split if inner is None else inner] = part
    labels, class_names = _labels(parts, str(location))
    splits = {
        split: TarSplit(parts[split].paths, parts[split].index, labels.get(split))
        for split in in_usual_order(parts)
    }
    return ImageSource("tar", str(location), splits, class_names, passed.notes())


@dataclass(frozen=True)
class _Part:
    """The samples of one split before they are labelled."""

    paths: tuple[Path, ...]
    index: TarIndex
    texts: pa.ChunkedArray | None
    """What the samples' own label members say."""
    folders: pa.ChunkedArray
    """Names of class folders, null where there is none."""


def _inner_parts(
    shards: tuple[Path, ...], index: TarIndex, texts: pa.ChunkedArray | None, where: str
) -> dict[str | None, _Part]:
    """Samples by the splits that folders inside the tar files tell, None for none."""
    paths = pc.replace_substring_regex(index.members, "/?[^/]*$", "")
    folders = paths.unique()
    at = indices(paths, folders)
    layout = _layout([_components(folder) for folder in folders.to_pylist()], where)
    classes = pa.array([class_name for _, class_name in layout], pa.binary())
    parts: dict[str | None, _Part] = {}
    for split in dict.fromkeys(split for split, _ in layout):
        chosen = np.flatnonzero(np.array([inner == split for inner, _ in layout])[at])
        chosen_texts = None if texts is None else texts.take(pa.array(chosen))
        in_class = pa.chunked_array([classes.take(pa.array(at[chosen]))])
        parts[split] = _Part(shards, index.take(chosen), chosen_texts, in_class)
    return parts


def _components(folder: bytes) -> tuple[bytes, ...]:
    return tuple(part for part in folder.split(b"/") if part not in (b"", b"."))


def _layout(folders: list[tuple[bytes, ...]], where: str) -> list[tuple[str | None, bytes | None]]:
    """Split and class of each folder, from what folders of images do not have in common."""
    parents = [folder[:-1] for folder in folders]
    pairs = zip(min(parents), max(parents), strict=False)
    common = [low for low, high in takewhile(lambda pair: pair[0] == pair[1], pairs)]
    below = [folder[len(common) :] for folder in folders]
    split = split_of_folder(printable(common[-1])) if common else None
    splits: list[str | None] = [split] * len(folders)
    if all(below):
        grouped = group_folders(list(dict.fromkeys(printable(folder[0]) for folder in below)), where)
        if grouped is not None:
            splits = [split_of_folder(printable(folder[0])) for folder in below]
            below = [folder[1:] for folder in below]
    return [(split, folder[0] if folder else None) for split, folder in zip(splits, below, strict=True)]


def _labels(parts: Mapping[str, _Part], where: str) -> tuple[dict[str, Labels], tuple[str, ...] | None]:
    texts = {split: part.texts for split, part in parts.items() if part.texts is not None}
    if texts:
        return label_splits(texts, where)
    folders = {}
    for split, part in parts.items():
        bare = part.folders.null_count
        if 0 < bare < len(part.folders):
            name = printable(part.index.members.filter(pc.is_null(part.folders))[0].as_py())
            raise SourceError(f"{where}: image {name!r} lies beside class folders; move it into one")
        if not bare:
            folders[split] = part.folders
    return label_splits(folders, where, may_be_numbers=False) if folders else ({}, None)
