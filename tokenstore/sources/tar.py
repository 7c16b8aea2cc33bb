"""The source of images in tar files: WebDataset shards, or folders of images as tar files.

A sample is the neighbouring members whose paths agree up to the first dot of the base name. One member is the
image. The label is the text of `.cls`, or "label", "cls" or "class" in `.json`; the rules for other names are
in `tar_groups`. If no sample has a label, the folders inside the tar files are splits and classes, as in a
folder of images. Links are followed inside the tar file; a link that leads elsewhere is a bad sample.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from typing_extensions import override

from tokenstore.errors import Parameter, SampleError, SourceError
from tokenstore.sources.base import CodeSource, ImageSource, ImageSplit, JoinableRequest, Labels
from tokenstore.sources.file_bytes import MAX_FILE_BYTES
from tokenstore.sources.files import SourceFile
from tokenstore.sources.further import requested_fields
from tokenstore.sources.labels import label_splits
from tokenstore.sources.layouts.tar_codes import no_images, tar_codes
from tokenstore.sources.listings import SavedListings
from tokenstore.sources.names import (
    check_range,
    digest,
    first_indices,
    printable,
    printable_names,
    sliced,
)
from tokenstore.sources.odd_folders import folders_of_images, refuse_label_maps
from tokenstore.sources.paired_maps import Pair, refuse_paired_maps
from tokenstore.sources.registry import SourceKind
from tokenstore.sources.shard_files import find_shards, folder_has_shards, has_shards
from tokenstore.sources.split_names import group_folders, in_usual_order, split_of_folder
from tokenstore.sources.tar_columns import Values, tar_columns
from tokenstore.sources.tar_index import TarIndex, index_tars
from tokenstore.sources.tar_links import LEADS_NOWHERE
from tokenstore.sources.tar_notes import TarNotes
from tokenstore.storage import public_url

ENDINGS = (".tar",)


@dataclass(frozen=True)
class TarRequest(JoinableRequest):
    """A request for byte ranges of tar files."""

    files: tuple[SourceFile, ...]
    ranges: tuple[tuple[int, int, int], ...]
    """The byte range of each sample: (index of the file, offset, size)."""

    @property
    @override
    def is_remote(self) -> bool:
        return any(file.is_remote for file in self.files)

    @property
    @override
    def is_shared(self) -> bool:
        return self.is_remote

    @property
    @override
    def nbytes(self) -> int:
        return sum(size for _, _, size in self.ranges)

    @override
    def joined(self, following: Sequence[TarRequest]) -> TarRequest:
        requests = [self, *following]
        numbers: dict[SourceFile, int] = {}
        ranges = [
            (numbers.setdefault(request.files[file], len(numbers)), offset, size)
            for request in requests
            for file, offset, size in request.ranges
        ]
        return TarRequest(tuple(numbers), tuple(ranges))

    @override
    def read(self) -> Sequence[bytes | SampleError]:
        images: list[bytes | SampleError | None] = [self._refusal(*each) for each in self.ranges]
        for number, file in enumerate(self.files):
            places = [
                place
                for place, (of_file, _, _) in enumerate(self.ranges)
                if of_file == number and images[place] is None
            ]
            if places:
                ranges = [self.ranges[place][1:] for place in places]
                for place, image in zip(places, file.read_ranges(ranges), strict=True):
                    images[place] = image
        return [image for image in images if image is not None]

    def _refusal(self, file: int, offset: int, size: int) -> SampleError | None:
        """Return the error of a sample that is not to be read, or None."""
        if size > MAX_FILE_BYTES:
            return SampleError(f"{size} bytes are more than the {MAX_FILE_BYTES} allowed")
        if offset == LEADS_NOWHERE:
            return SampleError(
                f"a link that leads to no file inside {self.files[file]}; pack the file itself"
            )
        return None


@dataclass(frozen=True)
class TarSplit(ImageSplit):
    """The images of one split, in the order of the tar files and of their members."""

    files: tuple[SourceFile, ...]
    index: TarIndex
    all_labels: Labels | None

    @override
    def __len__(self) -> int:
        return len(self.index)

    @override
    def names(self, start: int, stop: int) -> pa.Array:
        check_range(start, stop, len(self))
        files = pa.array([printable(os.fsencode(file.name)) for file in self.files], pa.string())
        files = files.take(pa.array(self.index.shards[start:stop]))
        return pc.binary_join_element_wise(
            files, printable_names(sliced(self.index.members, start, stop)), "/"
        )

    @override
    def labels(self, start: int, stop: int) -> Labels | None:
        check_range(start, stop, len(self))
        return None if self.all_labels is None else self.all_labels[start:stop]

    @override
    def fingerprint(self) -> str:
        index, files = self.index, repr([file.name for file in self.files])
        return digest(index.members, self.all_labels, index.shards, index.offsets, index.sizes, files)

    @override
    def request(self, start: int, stop: int) -> TarRequest:
        check_range(start, stop, len(self))
        index = self.index
        used, shards = np.unique(index.shards[start:stop], return_inverse=True)
        columns = shards, index.offsets[start:stop], index.sizes[start:stop]
        ranges = tuple(zip(*(column.tolist() for column in columns), strict=True))
        return TarRequest(tuple(self.files[shard] for shard in used), ranges)


def open_tar(
    location: str | Path,
    *,
    no_labels: bool = False,
    source_storage_options: Mapping[str, Any] | None = None,
    listings: SavedListings | None = None,
    columns: Sequence[str] | None = None,
    token_column: str | None = None,
) -> ImageSource | CodeSource:
    """Index tar files: one, a pattern such as `train-{000..099}.tar`, or a folder of tar files.

    Samples are ready codes where `token_column` names the members that hold them, such as `codes.npy`, or
    where the first sample has no image and a member `tokens.npy` or the like.

    With `no_labels`, neither members nor folders give labels. The location may be a URL, for which
    `source_storage_options` are fsspec's. `columns` are further columns: the ending of members beside the
    images, or a field of their `.json`; `NAME=FIELD` gives one another name in the store. Listings of tar
    files are taken from `listings`, and saved there.

    Raises SourceError for files that are not tar, compressed or cut off, for keys that occur twice, and if
    some samples have labels and others not.
    """
    where, notes = public_url(str(location)), TarNotes()
    shards = find_shards(location, ENDINGS, source_storage_options, listings)
    fields = requested_fields(columns, where)
    parts: dict[str, _Part] = {}
    for split, files in shards.splits.items():
        index, texts = index_tars(files, notes, not no_labels, listings, tuple(fields.values()), token_column)
        if not len(index):
            raise no_images(f"{where}: no images in the tar files of split {split}", files[0])
        for inner, part in _inner_parts(files, index, texts, where).items():
            if shards.named and inner not in (None, split):
                raise SourceError(f"{files[0]}: split {split} by its name, but holds a folder for {inner}")
            parts[split if inner is None else inner] = part
    labels, class_names, more = ({}, None, ()) if no_labels else _labels(parts, where)
    splits = {
        split: TarSplit(parts[split].files, parts[split].index, labels.get(split))
        for split in in_usual_order(parts)
    }
    codes = {split: parts[split].codes() for split in splits}
    are_codes = any(each is not None for each in codes.values())
    if not are_codes and not no_labels and all(part.texts is None for part in parts.values()):
        refuse_paired_maps(splits, where, _unpack_maps)
    unused = () if no_labels else notes.unused_labels()
    all_notes = (*shards.notes, *notes.notes(), *more)
    further = tar_columns(fields, {split: part.columns() for split, part in parts.items()}, where)
    if not are_codes:
        return ImageSource("tar", where, splits, class_names, all_notes, unused, further)
    return CodeSource(
        kind="tar",
        location=where,
        **tar_codes(codes, labels, where),
        further=further if fields else {},
        class_names=class_names,
        notes=all_notes,
        unused_labels=unused,
    )


def _unpack_maps(split: str, pair: Pair) -> tuple[str, Sequence[Parameter]]:
    """Say how to convert tar files of images and label maps."""
    way = Parameter("masks")
    text = (
        f"Unpack the tar files, and give the label maps by {way}, in a folder of their own whose paths are "
        "those of the images but for the ending .png"
    )
    return text, [way]


@dataclass(frozen=True)
class _Part:
    """The samples of one split before they are labelled."""

    files: tuple[SourceFile, ...]
    index: TarIndex
    texts: pa.ChunkedArray | None
    """The texts of the samples' own label members."""
    folders: pa.ChunkedArray
    """The names of class folders, null for samples outside of one."""

    def columns(self) -> list[Values]:
        """Return the values of the further columns."""
        index = self.index
        return [Values(self.files, index.shards, index.members, cells) for cells in index.further]

    def codes(self) -> tuple[str, Values] | None:
        """Return the ending of the members of codes, and their values; None for images."""
        index = self.index
        if index.codes is None:
            return None
        return index.code_ending, Values(self.files, index.shards, index.members, index.codes)


def _inner_parts(
    files: tuple[SourceFile, ...], index: TarIndex, texts: pa.ChunkedArray | None, where: str
) -> dict[str | None, _Part]:
    """Group samples by the split that folders inside the tar files say; None for no split."""
    paths = pc.replace_substring_regex(index.members, "/?[^/]*$", "")
    folders = paths.unique()
    at = first_indices(paths, folders)
    layout = _layout([_components(folder) for folder in folders.to_pylist()], where)
    classes = pa.array([class_name for _, class_name in layout], pa.binary())
    parts: dict[str | None, _Part] = {}
    for split in dict.fromkeys(split for split, _ in layout):
        row_numbers = np.flatnonzero(np.array([inner == split for inner, _ in layout])[at])
        part_texts = None if texts is None else texts.take(pa.array(row_numbers))
        in_class = pa.chunked_array([classes.take(pa.array(at[row_numbers]))])
        parts[split] = _Part(files, index.take(row_numbers), part_texts, in_class)
    return parts


def _components(folder: bytes) -> tuple[bytes, ...]:
    return tuple(part for part in folder.split(b"/") if part not in (b"", b"."))


def _layout(folders: list[tuple[bytes, ...]], where: str) -> list[tuple[str | None, bytes | None]]:
    """Return the split and class of each folder, by the part of its path that not all folders share."""
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


def _labels(
    parts: Mapping[str, _Part], where: str
) -> tuple[dict[str, Labels], tuple[str, ...] | None, tuple[str, ...]]:
    """Return the labels of each split, the names of the classes, and notes."""
    texts = {split: part.texts for split, part in parts.items() if part.texts is not None}
    if texts:
        return *label_splits(texts, where), ()
    folders = {}
    for split, part in parts.items():
        bare = part.folders.null_count
        if 0 < bare < len(part.folders):
            name = printable(part.index.members.filter(pc.is_null(part.folders))[0].as_py())
            raise SourceError(f"{where}: image {name!r} lies beside class folders; move it into one")
        if not bare:
            folders[split] = part.folders
    names = {split: column.unique().to_pylist() for split, column in folders.items()}
    refuse_label_maps(names, where, packed=True)
    no_classes = folders_of_images(names, where)
    notes = tuple(
        f"folder {printable(name)} is that of all images of split {split}, and no class"
        for split, name in no_classes.items()
    )
    folders = {split: column for split, column in folders.items() if split not in no_classes}
    return *(label_splits(folders, where, may_be_numbers=False) if folders else ({}, None)), notes


SOURCE = SourceKind(
    open=open_tar,
    holds=partial(folder_has_shards, endings=ENDINGS),
    looked_for=".tar shards",
    endings=ENDINGS,
    options=frozenset({"no_labels", "source_storage_options", "listings", "columns", "token_column"}),
    holds_url=partial(has_shards, endings=ENDINGS),
)
"""The kind `tar`."""
