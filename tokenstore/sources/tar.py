"""Images in tar files: WebDataset shards, or image folders as tar files.

A sample is the neighbouring members whose paths agree up to the first dot of the base name. One of them is
the image; its label is the text of `.cls`, or "label", "cls" or "class" in `.json`. Where no sample has a
label, the folders inside the tar files are splits and classes as in a folder of images.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tokenstore.errors import SampleError, SourceError
from tokenstore.sources.base import ImageSource, Labels
from tokenstore.sources.listing import (
    MAX_FILE_BYTES,
    ClassIds,
    check_range,
    class_labels,
    digest,
    indices,
    printable,
    printable_names,
    rows,
)
from tokenstore.sources.shards import find_shards
from tokenstore.sources.splits import group_folders, in_usual_order, split_of_folder
from tokenstore.sources.tarindex import PassedOver, TarIndex, index_tars

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

    def _read_one(self, descriptors: dict[int, int], shard: int, offset: int, size: int) -> bytes | SampleError:
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
        columns = self.index.shards, self.index.offsets, self.index.sizes
        files = [path.name for path in self.paths]
        return digest(self.index.members, self.all_labels, files, columns=columns)

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
    indexes: dict[str, TarIndex] = {}
    texts: dict[str, pa.ChunkedArray] = {}
    for split, paths in shards.splits.items():
        indexes[split], words = index_tars(paths, passed)
        if not len(indexes[split]):
            raise SourceError(f"{location}: no images in the tar files of split {split}")
        if words is not None:
            texts[split] = words
    labels, class_names = _labels_of_texts(texts, str(location))
    if not texts:
        classes = ClassIds()
    splits = {}
    for split, index in indexes.items():
        splits[split] = TarSplit(shards.splits[split], index, labels.get(split))
    return ImageSource("tar", str(location), splits, class_names, passed.notes())
