"""The index of the samples of tar files, made by one walk over the headers: one row a sample."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from typing_extensions import override

from tokenstore.errors import Parameter, SourceError
from tokenstore.sources.files import Reader, SourceFile, reading
from tokenstore.sources.listings import FileListing, ListingTask, SavedListings, list_files
from tokenstore.sources.names import NameBuilder, Tally, first_indices, printable
from tokenstore.sources.tar_columns import ColumnReader
from tokenstore.sources.tar_groups import Group, code_ending, looks_like_sample, sample_of, samples_of_group
from tokenstore.sources.tar_headers import Member, walk_headers
from tokenstore.sources.tar_labels import LabelReader
from tokenstore.sources.tar_links import LEADS_NOWHERE, TarLinks
from tokenstore.sources.tar_notes import TarNotes


@dataclass(frozen=True)
class TarIndex:
    """The image members of some tar files, one row a sample."""

    members: pa.ChunkedArray
    """The paths inside the tar files, `pa.binary()`."""
    shards: npt.NDArray[np.int32]
    """The index of the tar file."""
    offsets: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    further: tuple[pa.ChunkedArray, ...] = ()
    """The values of further columns, as `tar_columns.ColumnReader` gives them."""
    code_ending: str = ""
    """The ending of members of codes; "" for samples that are images."""
    codes: pa.ChunkedArray | None = None
    """The values of the members of codes, as `tar_columns.ColumnReader` gives them."""

    def __len__(self) -> int:
        return len(self.shards)

    def take(self, row_numbers: npt.NDArray[np.int64]) -> TarIndex:
        """Return the index of some of the rows."""
        members = self.members.take(pa.array(row_numbers))
        shards, offsets = self.shards[row_numbers], self.offsets[row_numbers]
        further = tuple(column.take(pa.array(row_numbers)) for column in self.further)
        codes = None if self.codes is None else self.codes.take(pa.array(row_numbers))
        return TarIndex(members, shards, offsets, self.sizes[row_numbers], further, self.code_ending, codes)


def index_tars(
    files: Sequence[SourceFile],
    notes: TarNotes,
    labelled: bool = True,
    saved: SavedListings | None = None,
    fields: tuple[str, ...] = (),
    codes: str | None = None,
) -> tuple[TarIndex, pa.ChunkedArray | None]:
    """Index the samples of some tar files in file order, and return the texts of their labels, if any.

    Labels are only read if the samples are to be `labelled`. Listings of single files are taken from `saved`,
    and saved there. `fields` are the further columns that are read. `codes` names the members of codes,
    which are the samples then, and not images; without it, the first sample of a file decides.

    Raises SourceError if a key occurs twice, or if some samples have labels and others not.
    """
    tables, unlabelled, rows = [], Tally("samples without a label"), 0
    endings: dict[str, SourceFile] = {}
    for file, listing in zip(files, list_files(files, ListTar(labelled, fields, codes), saved), strict=True):
        table = listing.table
        tables.append(table)
        notes.merge(listing.facts)
        endings.setdefault(listing.facts["codes"], file)
        if len(endings) > 1:
            found = ", ".join(
                f"{f'codes (.{each})' if each else 'images'} in {of}" for each, of in endings.items()
            )
            raise SourceError(f"{file}: expected samples of one kind in all tar files, found {found}")
        rows += len(table)
        bare = table["text"].null_count
        if bare:
            names = table["member"].filter(pc.is_null(table["text"]))
            unlabelled.merge(Tally("", bare, pc.min(names).as_py()))
        if 0 < unlabelled.count < rows:
            without = Parameter("no_labels", True)
            raise SourceError(
                f"{file}: {unlabelled.notes()[0]}, while others have one; label all of a split or none, or "
                f"leave all out by {without}" + "".join(f". {note}" for note in notes.unused_labels()),
                parameters=[without],
            )
    whole = pa.concat_tables(tables)
    shards = np.repeat(np.arange(len(tables), dtype=np.int32), [len(table) for table in tables])
    further = tuple(whole[f"column-{number}"] for number in range(len(fields)))
    places = whole["offset"].to_numpy(), whole["size"].to_numpy()
    (ending,) = endings
    index = TarIndex(whole["member"], shards, *places, further, ending, whole["codes"] if ending else None)
    return index, None if unlabelled.count else whole["text"]


@dataclass(frozen=True)
class ListTar(ListingTask):
    """The listing of the samples of a tar file: `member` and `text` are binary, `offset` and `size` int64.

    The text of a label is null for a sample without one. The facts are those of `TarNotes`.
    """

    labelled: bool
    """True to read labels."""
    fields: tuple[str, ...] = ()
    """The further columns to read: binary `column-0` and so on."""
    codes: str | None = None
    """The name of the members of codes; None where the first sample of a file decides."""

    @override
    def __call__(self, file: SourceFile) -> FileListing:
        members, texts, notes = NameBuilder(), NameBuilder(), TarNotes()
        offsets, sizes = array("q"), array("q")
        further = [NameBuilder() for _ in self.fields]
        codes, kind = NameBuilder(), [""]
        for image, text, values, of_codes in _samples(file, notes, self, kind):
            codes.append(of_codes)
            for builder, value in zip(further, values, strict=True):
                builder.append(value)
            members.append(image.name)
            texts.append(text)
            offsets.append(image.offset)
            sizes.append(image.size)
        columns = {"member": members.finish(), "text": texts.finish()}
        columns |= {f"column-{number}": builder.finish() for number, builder in enumerate(further)}
        if kind[0]:
            columns["codes"] = codes.finish()
        numbers = {"offset": np.array(offsets, np.int64), "size": np.array(sizes, np.int64)}
        return FileListing(pa.table({**columns, **numbers}), {**notes.facts(), "codes": kind[0]})


def _samples(
    tar: SourceFile, notes: TarNotes, task: ListTar, kind: list[str]
) -> Iterator[tuple[Member, bytes | None, list[bytes | None], bytes | None]]:
    """Yield the image, or the codes, the label text and the further columns of each sample of a tar file.

    The last value is the cell of a member of codes, None for an image. The ending of such members becomes the
    one element of `kind`, "" for images.
    """
    keys = NameBuilder()
    with reading(tar) as file:
        reader, columns = LabelReader(file, tar, notes, task.fields), ColumnReader(file, tar, task.fields)
        for key, group in groups_of(file, tar, notes):
            keys.append(key)
            if len(keys) == 1:
                kind[0] = code_ending(group, task.codes)
            if kind[0]:
                samples, further_images = [sample_of(kind[0], group, key, tar)], list[str]()
            else:
                samples, further_images = samples_of_group(group, key, tar)
            if not samples:
                for member in group.values():
                    notes.without_image(member.name)
                continue
            used = further_images
            for ending in further_images:
                notes.images.add(group[ending].name)
            for sample in samples:
                image = group[sample.image]
                text, read = reader.text(sample, group) if task.labelled else (None, sample.labels)
                values, stored = columns.values(sample, group)
                used = [*used, sample.image, *read, *stored]
                if sample.is_one_of_several:
                    notes.apart.add(image.name)
                yield image, text, values, columns.codes(image) if kind[0] else None
            for ending in () if len(used) == len(group) else [one for one in group if one not in set(used)]:
                reader.note_unused(ending, group[ending])
    _check_keys(keys.finish(), tar)


def groups_of(file: Reader, tar: SourceFile, notes: TarNotes) -> Iterator[tuple[bytes, Group]]:
    """Yield each key with its members by their endings: what follows the first dot, in lower case."""
    key, group, links = b"", dict[str, Member](), TarLinks(tar)
    for member in walk_headers(file, tar):
        folder, slash, base = member.name.rpartition(b"/")
        if member.is_folder or base.startswith(b"."):
            continue
        stem, _, ending = base.partition(b".")
        kind = printable(ending).lower()
        if member.link is not None:
            member = links.follow(member)
        leads_nowhere = member.offset == LEADS_NOWHERE and not looks_like_sample(kind)
        if not member.is_file or leads_nowhere:
            notes.special.add(member.name)
            continue
        if folder + slash + stem != key and group:
            yield key, group
            group = {}
        key = folder + slash + stem
        if kind in group:
            raise SourceError(f"{tar}: key {printable(key)!r} has two members .{kind}")
        group[kind] = member
    if group:
        yield key, group


def _check_keys(keys: pa.ChunkedArray, tar: SourceFile) -> None:
    if len(keys.unique()) == len(keys):
        return
    first = first_indices(keys, keys)
    row = int(np.flatnonzero(first != np.arange(len(keys)))[0])
    raise SourceError(
        f"{tar}: key {printable(keys[row].as_py())!r} occurs in two places; a sample's files must be "
        "neighbours, as in a tar file whose members are sorted by name, and keys differ"
    )
