"""Further columns of tar files: members beside the image, such as `.txt` and `.npy`, and fields of `.json`.

What a name stands for is decided sample by sample: the member of that ending or, without one, the field of
that name in the sample's `.json`. A sample with neither has no value.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from typing_extensions import override

from tokenstore.codecs import Column, list_column
from tokenstore.errors import CodecError, SampleError, SourceError
from tokenstore.sources.arrow_types import READ_ERRORS
from tokenstore.sources.arrow_values import MOST_VALUES
from tokenstore.sources.base import SourceColumn
from tokenstore.sources.files import Reader, SourceFile
from tokenstore.sources.further import arrow_columns
from tokenstore.sources.names import digest, printable
from tokenstore.sources.npy_files import npy_header
from tokenstore.sources.tar_groups import JSON, Group, GroupSample
from tokenstore.sources.tar_headers import Member
from tokenstore.sources.tar_links import LEADS_NOWHERE

__all__ = ["ColumnReader", "Values", "tar_columns"]

_MOST_NBYTES = 2**24
_ARRAY = "npy"
_MAGIC = b"\x93NUMPY"
_NUMBER = ("cls", "id", "index")
"""The endings of members whose text is a number, if it is one in all samples."""
_NUMBER_TEXT = re.compile(r"\s*(0|-?[1-9][0-9]{0,17})\s*", re.ASCII)
"""The numbers of 64 bits as they are written: 007 is none."""
_TEXT_TAG, _JSON_TAG, _ARRAY_TAG = b"t", b"j", b"a"
_HEADER_NBYTES = 2**10
_MOST_ITEM_NBYTES = 8


@dataclass(frozen=True)
class ColumnReader:
    """The reader of further columns of a tar file's samples: `fields` are their names there."""

    file: Reader
    tar: SourceFile
    fields: tuple[str, ...]

    def values(self, sample: GroupSample, group: Group) -> tuple[list[bytes | None], list[str]]:
        """Return a sample's value of each column, as bytes of the listing, and the endings that were used.

        Raises SourceError for members that cannot be read.
        """
        values: list[bytes | None] = []
        used: list[str] = []
        json_ending = sample.member(JSON, group)
        fields: dict[str, bytes] | None = None
        for field in self.fields:
            ending = sample.member(field.lower(), group)
            if ending is not None:
                used.append(ending)
                values.append(self._member(ending, group[ending]))
                continue
            if json_ending is not None and fields is None:  # read once for all fields
                used.append(json_ending)
                fields = self._json(group[json_ending])
            values.append(None if fields is None else fields.get(field))
        return values, used

    def codes(self, member: Member) -> bytes:
        """Return the cell of an array of codes; raise SourceError for a buffer without the `.npy` header."""
        self.file.seek(member.offset)
        if self.file.read(len(_MAGIC)) != _MAGIC:
            raise SourceError(
                f"{self.tar}: {printable(member.name)}: expected the .npy format, found a buffer without its "
                "header, as MaskGen writes its latents of float16: numbers of unknown type and shape, and no "
                "codes. Write codes by np.save"
            )
        return self._member(_ARRAY, member)

    def _member(self, ending: str, member: Member) -> bytes:
        if ending.rpartition(".")[2] == _ARRAY:
            where = f"{self.tar}: {printable(member.name)}"
            head = self._content(member, _HEADER_NBYTES)
            dtype, shape, offset = npy_header(head, member.size, where)
            facts = [member.offset + offset, dtype.str, list(shape)]
            return _ARRAY_TAG + json.dumps(facts).encode()
        return _TEXT_TAG + self._content(member)

    def _json(self, member: Member) -> dict[str, bytes]:
        """Return the fields of a JSON object that are asked for and not null; none for other JSON."""
        try:
            fields = json.loads(self._content(member))
            if not isinstance(fields, dict):
                return {}
            asked = {field: fields[field] for field in self.fields if fields.get(field) is not None}
            return {field: _JSON_TAG + json.dumps(value).encode() for field, value in asked.items()}
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{self.tar}: {printable(member.name)}: expected JSON: {error}") from error

    def _content(self, member: Member, most: int | None = None) -> bytes:
        nowhere = member.offset == LEADS_NOWHERE
        if nowhere or (member.size > _MOST_NBYTES and most is None):
            found = "a link to no file of the tar file" if nowhere else f"{member.size} bytes"
            raise SourceError(
                f"{self.tar}: {printable(member.name)}: expected a value of up to {_MOST_NBYTES} bytes, "
                f"found {found}"
            )
        self.file.seek(member.offset)
        return self.file.read(member.size if most is None else min(member.size, most))


@dataclass(frozen=True)
class Values:
    """The values of one column of a split, as the listings of its tar files have them."""

    files: tuple[SourceFile, ...]
    shards: npt.NDArray[np.int32]
    """The index of each sample's tar file."""
    members: pa.ChunkedArray
    """The names of the samples' images, for messages."""
    cells: pa.ChunkedArray
    """The bytes of `ColumnReader.values`, null for a sample without a value."""

    def where(self, row: int) -> str:
        """Return the place of a sample, for a message."""
        return f"{self.files[self.shards[row]]}: {printable(self.members[row].as_py())}"


def tar_columns(
    fields: Mapping[str, str], values: Mapping[str, Sequence[Values]], where: str
) -> dict[str, dict[str, SourceColumn]]:
    """Return the further columns of each split, whose `values` are in the order of `fields`.

    Raises SourceError for a column that no sample has, and for values of several kinds.
    """
    further: dict[str, dict[str, SourceColumn]] = {split: {} for split in values}
    for number, (name, field) in enumerate(fields.items()):
        of_splits = {split: columns[number] for split, columns in values.items()}
        for split, column in _column(field, of_splits, where).items():
            further[split][name] = column
    return further


def _column(field: str, values: Mapping[str, Values], where: str) -> Mapping[str, SourceColumn]:
    tags = {cell[:1] for of_split in values.values() for cell in _cells(of_split) if cell is not None}
    if not tags:
        raise SourceError(
            f"{where}: column {field!r}: no sample has a member .{field}, nor a field {field!r} in its .json"
        )
    if len(tags) > 1:
        raise SourceError(
            f"{where}: column {field!r}: some samples have a member .{field}, others a field of their .json"
        )
    (tag,) = tags
    if tag == _ARRAY_TAG:
        return _array_columns(field, values, where)
    decoded = {split: _decoded(field, of_split, tag == _JSON_TAG) for split, of_split in values.items()}
    if tag == _TEXT_TAG and field.rpartition(".")[2] in _NUMBER:
        decoded = _numbers(decoded)
    return arrow_columns(_arrow(field, decoded, where), field, where)


def _cells(values: Values) -> Iterator[bytes | None]:
    for chunk in values.cells.chunks:
        yield from chunk.to_pylist()


def _decoded(field: str, values: Values, is_json: bool) -> list[Any]:
    """Return the values of a column as Python's, None where a sample has none."""
    decoded: list[Any] = []
    for row, cell in enumerate(_cells(values)):
        try:
            text = None if cell is None else cell[1:].decode()
        except UnicodeDecodeError as error:
            raise SourceError(f"{values.where(row)}: .{field}: expected a text in UTF-8: {error}") from error
        decoded.append(json.loads(text) if is_json and text is not None else text)
    return decoded


def _numbers(decoded: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Return whole numbers for the texts of a column, if all of them are, as numbers are written."""
    texts = (text for of_split in decoded.values() for text in of_split if text is not None)
    if not all(_NUMBER_TEXT.fullmatch(text) for text in texts):
        return decoded
    return {
        split: [None if text is None else int(text) for text in of_split]
        for split, of_split in decoded.items()
    }


def _arrow(field: str, decoded: Mapping[str, list[Any]], where: str) -> dict[str, pa.ChunkedArray]:
    """Return the values of each split in one type: whole numbers of one may be fractions in another."""
    try:
        whole = pa.array(list(chain.from_iterable(decoded.values())))
    except READ_ERRORS as error:
        raise SourceError(
            f"{where}: column {field!r}: expected values of one kind, texts, numbers, or lists of numbers: "
            f"{error}"
        ) from error
    whole = whole if isinstance(whole, pa.ChunkedArray) else pa.chunked_array([whole])
    stops = np.cumsum([len(of_split) for of_split in decoded.values()]).tolist()
    return {
        split: whole.slice(stop - len(of_split), len(of_split))
        for stop, (split, of_split) in zip(stops, decoded.items(), strict=True)
    }


@dataclass(frozen=True)
class TarArrays(SourceColumn):
    """A column of `.npy` members, read by their ranges when they are stored."""

    kind: Column
    values: Values
    field: str

    @property
    @override
    def column(self) -> Column:
        return self.kind

    @override
    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        column, cells = self.kind, self.values.cells.slice(start, stop - start).to_pylist()
        places: list[Any] = [None if cell is None else json.loads(cell[1:]) for cell in cells]
        values: npt.NDArray[Any] = np.empty((stop - start, *column.shape), column.dtype)
        for file in np.unique(self.values.shards[start:stop]).tolist():
            rows = np.flatnonzero(self.values.shards[start:stop] == file).tolist()
            rows = [row for row in rows if places[row] is not None]
            ranges = [(places[row][0], _nbytes(places[row])) for row in rows]
            for row, data in zip(rows, self.values.files[file].read_ranges(ranges), strict=True):
                if isinstance(data, SampleError):
                    raise SourceError(f"{self.values.where(start + row)}: .{self.field}: {data}")
                array = np.frombuffer(data, places[row][1]).reshape(places[row][2])
                values[row] = array.astype(array.dtype.newbyteorder("="))
        for row in [row for row, place in enumerate(places) if place is None]:
            values[row] = self._missing(start + row)
        return values

    def _missing(self, row: int) -> Any:
        form: Any = self.kind.form
        if form is not None:
            return np.empty((0, *form.shape), form.dtype)
        if self.kind.dtype.kind != "f":
            raise SourceError(
                f"{self.values.where(row)}: has no .{self.field}, and {self.kind.dtype} has no value for that"
            )
        return np.nan

    @override
    def fingerprint(self) -> str:
        return digest(str(self.kind), pc.fill_null(self.values.cells, b""))


def _nbytes(place: list[Any]) -> int:
    return int(np.dtype(place[1]).itemsize * np.prod(place[2], dtype=np.int64))


def _array_columns(field: str, values: Mapping[str, Values], where: str) -> dict[str, SourceColumn]:
    kinds = {
        (cell_facts[1], tuple(cell_facts[2]))
        for of_split in values.values()
        for cell in _cells(of_split)
        if cell is not None
        for cell_facts in [json.loads(cell[1:])]
    }
    dtypes, inner = {dtype for dtype, _ in kinds}, {shape[1:] for _, shape in kinds}
    dtype = np.dtype(next(iter(dtypes))).newbyteorder("=")
    are_numbers = dtype.kind in "biuf" and dtype.itemsize <= _MOST_ITEM_NBYTES
    most = max(math.prod(shape) for _, shape in kinds)
    are_rows = len(inner) == 1 and all(shape for _, shape in kinds) and most <= MOST_VALUES
    if len(dtypes) > 1 or not are_numbers or not are_rows:
        shown = ", ".join(f"{np.dtype(dtype)} {shape}" for dtype, shape in sorted(kinds)[:3])
        raise SourceError(
            f"{where}: column {field!r}: expected arrays of up to {MOST_VALUES:,} numbers, each of up to 64 "
            f"bits, that differ in their first size alone, found {shown}"
        )
    shapes = {shape for _, shape in kinds}
    try:
        (shape,) = shapes if len(shapes) == 1 else ((0,),)
        column = Column(dtype, shape) if all(shape) else list_column(dtype, next(iter(inner)))
    except CodecError as error:
        raise SourceError(f"{where}: column {field!r}: {error}") from error
    return {split: TarArrays(column, of_split, field) for split, of_split in values.items()}
