"""The index of the samples of tar files, made by one walk over the headers: one row a sample."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenstore.errors import SourceError
from tokenstore.sources.images import EXTENSIONS
from tokenstore.sources.names import NameBuilder, Tally, first_indices, printable
from tokenstore.sources.tar_headers import Member, walk_tar

PREFERRED = ("jpg", "jpeg", "png", "webp")
"""The endings of images in order of preference, for samples with several; others come after, by name."""

_LABEL_ENDINGS = ("cls", "json")
_LABEL_KEYS = ("label", "cls", "class")
_MAX_LABEL_BYTES = 2**20


class SkippedMembers:
    """The members that are no part of a sample."""

    def __init__(self) -> None:
        self.special = Tally("members skipped, as they are links, devices or sparse files")
        self.others = Tally("members skipped, as no image goes with them")
        self.images = Tally("images skipped, as their samples have one that goes before")

    def notes(self) -> tuple[str, ...]:
        """Return a sentence for each sort of member that was skipped."""
        return (*self.special.notes(), *self.others.notes(), *self.images.notes())


@dataclass(frozen=True)
class TarIndex:
    """The image members of some tar files, one row a sample."""

    members: pa.ChunkedArray
    """The paths inside the tar files, `pa.binary()`."""
    shards: npt.NDArray[np.int32]
    """The index of the tar file."""
    offsets: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.shards)

    def take(self, row_numbers: npt.NDArray[np.int64]) -> TarIndex:
        """Return the index of some of the rows."""
        members = self.members.take(pa.array(row_numbers))
        shards, offsets = self.shards[row_numbers], self.offsets[row_numbers]
        return TarIndex(members, shards, offsets, self.sizes[row_numbers])


def index_tars(paths: Iterable[Path], skipped: SkippedMembers) -> tuple[TarIndex, pa.ChunkedArray | None]:
    """Index the samples of some tar files in file order, and return the texts of their labels, if any.

    Raises SourceError if a key occurs twice, or if some samples have labels and others not.
    """
    members, texts, unlabelled = NameBuilder(), NameBuilder(), Tally("samples without a label")
    shards, offsets, sizes = array("i"), array("q"), array("q")
    for number, path in enumerate(paths):
        for image, text in _samples(path, skipped):
            members.append(image.name)
            texts.append(text or b"")
            shards.append(number)
            offsets.append(image.offset)
            sizes.append(image.size)
            if text is None:
                unlabelled.add(image.name)
        if 0 < unlabelled.count < len(shards):
            raise SourceError(
                f"{path}: {unlabelled.notes()[0]}, while others have one; label all of a split or none"
            )
    columns = np.array(shards, np.int32), np.array(offsets, np.int64), np.array(sizes, np.int64)
    return TarIndex(members.finish(), *columns), None if unlabelled.count else texts.finish()


def _samples(path: Path, skipped: SkippedMembers) -> Iterator[tuple[Member, bytes | None]]:
    """Yield the image and the label text of each sample of one tar file."""
    keys = NameBuilder()
    with path.open("rb") as file:
        for key, members in _groups(path, skipped):
            keys.append(key)
            image = _image(members, skipped, f"{path}: sample {printable(key)!r}")
            if image is None:
                for member in members.values():
                    skipped.others.add(member.name)
                continue
            text = None
            for ending in _LABEL_ENDINGS:
                if text is None and ending in members:
                    member = members[ending]
                    file.seek(member.offset)
                    content = file.read(min(member.size, _MAX_LABEL_BYTES))
                    text = content if ending == "cls" else _label_in_json(content, path, member)
            yield image, text
    _check_keys(keys.finish(), path)


def _groups(path: Path, skipped: SkippedMembers) -> Iterator[tuple[bytes, dict[str, Member]]]:
    """Yield each key with its members by their endings: what follows the first dot, in lower case."""
    key, members = b"", dict[str, Member]()
    for member in walk_tar(path):
        folder, slash, base = member.name.rpartition(b"/")
        if member.is_folder or base.startswith(b"."):
            continue
        if not member.is_file:
            skipped.special.add(member.name)
            continue
        stem, _, ending = base.partition(b".")
        if folder + slash + stem != key and members:
            yield key, members
            members = {}
        key = folder + slash + stem
        kind = printable(ending).lower()
        if kind in members:
            raise SourceError(f"{path}: key {printable(key)!r} has two members .{kind}")
        members[kind] = member
    if members:
        yield key, members


def _image(members: dict[str, Member], skipped: SkippedMembers, where: str) -> Member | None:
    """Choose the image of a sample; return None if it has none."""
    images = [ending for ending in members if ending in EXTENSIONS]
    if not images:
        images = [ending for ending in members if ending.rpartition(".")[2] in EXTENSIONS]
        if len(images) > 1:
            raise SourceError(f"{where}: expected one image, found .{' and .'.join(images)}; name one .jpg")
    images.sort(
        key=lambda ending: (PREFERRED.index(ending) if ending in PREFERRED else len(PREFERRED), ending)
    )
    for ending in images[1:]:
        skipped.images.add(members[ending].name)
    return members[images[0]] if images else None


def _label_in_json(content: bytes, path: Path, member: Member) -> bytes | None:
    where = f"{path}: {printable(member.name)}"
    try:
        fields = json.loads(content)
    except ValueError as error:
        raise SourceError(f"{where}: expected JSON: {error}") from error
    labels = [fields[key] for key in _LABEL_KEYS if key in fields] if isinstance(fields, dict) else []
    if not labels:
        return None
    if isinstance(labels[0], bool) or not isinstance(labels[0], int | str):
        raise SourceError(f"{where}: expected a label that is a number or a name, found {labels[0]!r}")
    return str(labels[0]).encode()


def _check_keys(keys: pa.ChunkedArray, path: Path) -> None:
    if len(keys.unique()) == len(keys):
        return
    first = first_indices(keys, keys)
    row = int(np.flatnonzero(first != np.arange(len(keys)))[0])
    raise SourceError(
        f"{path}: key {printable(keys[row].as_py())!r} occurs in two places; a sample's files must be "
        "neighbours, as in a tar file whose members are sorted by name, and keys differ"
    )
