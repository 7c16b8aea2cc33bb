"""The source of MDS shards, as mosaicml-streaming writes them, with a column of codes.

    index.json             for each shard its file, its samples, and the columns with their encodings
    shard.00000.mds        uint32 N; uint32 offsets (N + 1,) of samples; a JSON text; the samples
    a sample               uint32 sizes of the columns whose size varies; the columns in order

Columns of codes are `ndarray:int16:16,16` with the type and the shape in the name, or lack one or both, and
then have them before each value. Shards have to be decompressed. Columns of pickles are never read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from typing_extensions import override

from tokenstore.codecs import TEXT, Column
from tokenstore.errors import Parameter, SampleError, SourceError
from tokenstore.sources.base import CodeSource, Labels, SourceColumn
from tokenstore.sources.code_values import MOST_CODES, check_shape
from tokenstore.sources.files import LocalFile, whole_file
from tokenstore.sources.folders import folders_in
from tokenstore.sources.further import missing_field, not_used, requested_fields
from tokenstore.sources.labels import LABEL_NAMES, check_class_range, check_labels, label_splits
from tokenstore.sources.layouts.mds_values import Cells, Encoding, encoding_of
from tokenstore.sources.layouts.rows import CodeRows, JoinedRows, LayoutSplit, chosen_tokens, grid_of
from tokenstore.sources.names import digest, is_plain_name
from tokenstore.sources.registry import SourceKind
from tokenstore.sources.split_names import DEFAULT_SPLIT, group_folders, in_usual_order, split_of_folder
from tokenstore.texts import shortened

_INDEX = "index.json"
_FORMAT = "mds"
_MOST_INDEX_NBYTES = 2**28
_LOOKED_AT = 2**16
"""The bytes of an index that are looked at to find out whether it is one of MDS shards."""
_MOST_LABEL_ROWS = 2**16
"""The samples whose labels are read at a time."""


@dataclass(frozen=True)
class Shard:
    """One shard: its file, its columns, and the bytes at which its samples begin."""

    file: LocalFile
    columns: Mapping[str, Encoding]
    offsets: npt.NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def cells(self, name: str, start: int, stop: int) -> Cells:
        """Return the bytes of one column of samples [start, stop); raise SourceError for damaged samples."""
        first, last = int(self.offsets[start]), int(self.offsets[stop])
        (data,) = self.file.read_ranges([(first, last - first)])
        if isinstance(data, SampleError):
            raise SourceError(str(data))
        begins = self.offsets[start : stop + 1].astype(np.int64) - first
        varying = [column for column, encoding in self.columns.items() if encoding.nbytes is None]
        octets = np.frombuffer(data, np.uint8)
        heads = begins[:-1, None] + np.arange(4 * len(varying))
        if heads.size and int(heads.max()) >= len(octets):
            raise SourceError(f"{self.file}: sample {start}: too short for the sizes of its columns")
        sizes = octets[heads].copy().view("<u4").astype(np.int64).reshape(stop - start, len(varying))
        at = begins[:-1] + 4 * len(varying)
        place = lengths = at
        for column, encoding in self.columns.items():
            fixed = np.full(stop - start, encoding.nbytes or 0)
            of_column = fixed if encoding.nbytes is not None else sizes[:, varying.index(column)]
            if column == name:
                place, lengths = at, of_column
            at = at + of_column
        wrong = at != begins[1:]
        if wrong.any():
            sample = start + int(wrong.argmax())
            raise SourceError(f"{self.file}: sample {sample}: its columns have other sizes than its bytes")
        return Cells(octets, place, lengths, f"{self.file}: column {name!r}", start)


@dataclass(frozen=True)
class ShardRows(CodeRows):
    """The codes in one column of a shard."""

    shard: Shard
    name: str
    kind: Column

    @property
    @override
    def where(self) -> str:
        return f"{self.shard.file}: column {self.name!r}"

    @property
    @override
    def grid(self) -> tuple[int, ...]:
        return self.kind.shape

    @override
    def __len__(self) -> int:
        return len(self.shard)

    @override
    def rows(self, start: int, stop: int) -> npt.NDArray[np.generic]:
        cells = self.shard.cells(self.name, start, stop)
        return self.shard.columns[self.name].values(cells, self.kind)

    @override
    def names(self, start: int, stop: int) -> pa.Array:
        return pa.array([f"{self.shard.file.name}[{row}]" for row in range(start, stop)], pa.string())

    @override
    def fingerprint(self) -> str:
        return digest(self.shard.file.name, self.shard.offsets, self.name, str(self.kind))


@dataclass(frozen=True)
class ShardColumn(SourceColumn):
    """A further column of the shards of a split."""

    kind: Column
    shards: tuple[Shard, ...]
    name: str

    @property
    @override
    def column(self) -> Column:
        return self.kind

    @override
    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        values = [np.empty((0, *self.kind.shape), self.kind.dtype)]
        for shard, begin, end in _pieces(self.shards, start, stop):
            values.append(shard.columns[self.name].values(shard.cells(self.name, begin, end), self.kind))
        return np.concatenate(values)

    @override
    def fingerprint(self) -> str:
        return digest(self.name, str(self.kind))  # the shards are in that of the split


def open_mds(
    location: str | Path,
    *,
    token_column: str | None = None,
    label_column: str | None = None,
    columns: Sequence[str] | None = None,
) -> CodeSource:
    """Open a local folder of MDS shards, or one with such a folder for each split.

    `token_column` is the column of codes, by default `tokens` or the only one of arrays; `label_column` that
    of labels, by default `label` or the like. `columns` are further columns: texts, numbers, arrays of one
    shape. Raises SourceError for an index that does not describe its shards, for shards that are compressed,
    and for columns that are not there, are of another form, or are pickles.
    """
    where = str(location)
    fields = requested_fields(columns, where)
    shards = {split: _shards(folder) for split, folder in _split_folders(Path(location)).items()}
    known = next(iter(shards.values()))[0].columns
    all_known = {name: each for of_split in shards.values() for name, each in of_split[0].columns.items()}
    codes = chosen_tokens(
        token_column, {name: each.is_array for name, each in known.items()}, where, "column"
    )
    for of_split in shards.values():
        if codes not in of_split[0].columns:
            raise SourceError(f"{of_split[0].file}: no column {codes!r}, unlike the first split")
        for name in fields.values():
            if name not in of_split[0].columns:
                raise missing_field(str(of_split[0].file), name, list(of_split[0].columns))
    kinds = {name: _kind(shards, name) for name in (codes, *fields.values())}
    check_shape(kinds[codes].dtype, (1, *kinds[codes].shape), f"{where}: column {codes!r}")
    label = _label_name(all_known, label_column, where)
    labelled = {split: of_split for split, of_split in shards.items() if label in of_split[0].columns}
    labels, class_names = ({}, None) if label is None else _labels(labelled, label, where)
    splits = {}
    for split, of_split in shards.items():
        rows = JoinedRows.of([ShardRows(shard, codes, kinds[codes]) for shard in of_split], where)
        splits[split] = LayoutSplit(rows, labels.get(split))
    rest = [name for name in all_known if name not in (codes, label, *fields.values())]
    return CodeSource(
        kind="mds",
        location=where,
        splits=splits,
        grid=grid_of({split: each.stored for split, each in splits.items()}, where),
        class_names=class_names,
        notes=not_used("columns", rest),
        further={
            split: {name: ShardColumn(kinds[field], of_split, field) for name, field in fields.items()}
            for split, of_split in shards.items()
            if fields
        },
    )


def _split_folders(root: Path) -> Mapping[str, Path]:
    if (root / _INDEX).is_file():
        return {split_of_folder(root.resolve().name) or DEFAULT_SPLIT: root}
    names = [each.name for each in folders_in(root) if (each / _INDEX).is_file()]
    grouped = group_folders(names, str(root)) if names else None
    if not grouped:
        raise SourceError(f"{root}: expected {_INDEX}, or folders of splits with one, found none")
    return {split: root / grouped[split] for split in in_usual_order(grouped)}


def _shards(folder: Path) -> tuple[Shard, ...]:
    """Return the shards that an index names, those without samples left out."""
    path = folder / _INDEX
    try:
        index = json.loads(whole_file(LocalFile.of(path), _MOST_INDEX_NBYTES, "an index"))
        entries = index["shards"]
        shards = [_shard(folder, entry) for entry in entries]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise SourceError(
            f"{path}: expected an index of MDS shards: {type(error).__name__} {error}"
        ) from error
    shards = [shard for shard in shards if len(shard)]
    if not shards:
        raise SourceError(f"{path}: names no shard with samples")
    names = [shard.file.name for shard in shards]
    if len(set(names)) < len(names):
        raise SourceError(f"{path}: names a shard twice")
    if any(shard.columns != shards[0].columns for shard in shards):
        raise SourceError(f"{path}: its shards differ in their columns")
    return tuple(shards)


def _shard(folder: Path, entry: Any) -> Shard:
    if entry["format"] != _FORMAT:
        raise ValueError(f"the format {entry['format']!r:.80}")
    name, samples = entry["raw_data"]["basename"], entry["samples"]
    if not is_plain_name(name) or type(samples) is not int or samples < 0:
        raise ValueError(f"the file {name!r:.80} of {samples!r:.80} samples")
    names, kinds = entry["column_names"], entry["column_encodings"]
    if len(set(names)) < len(names):
        raise ValueError("a column twice")
    columns = {
        column: encoding_of(kind, size)
        for column, kind, size in zip(names, kinds, entry["column_sizes"], strict=True)
    }
    file = LocalFile.of(folder / name)
    if not Path(file.path).is_file():
        packed = entry.get("zip_data") is not None or entry.get("compression")
        what = "its shards are compressed; decompress them first" if packed else "no such file"
        raise SourceError(f"{file}: {what}")
    return Shard(file, columns, _offsets(file, samples))


def _offsets(file: LocalFile, samples: int) -> npt.NDArray[np.uint32]:
    """Return the offsets (N + 1,) of a shard's samples; raise SourceError where they lead outside."""
    nbytes, head = file.nbytes, 4 * (samples + 2)
    if head > nbytes:
        raise SourceError(f"{file}: cut off: {samples} samples need {head} bytes of offsets, found {nbytes}")
    (data,) = file.read_ranges([(0, head)])
    if isinstance(data, SampleError):
        raise SourceError(str(data))
    numbers = np.frombuffer(data, "<u4").astype(np.uint32)
    offsets = numbers[1:]
    rising = bool((offsets[1:] >= offsets[:-1]).all())
    if numbers[0] != samples or not rising or offsets[0] < head or offsets[-1] != nbytes:
        raise SourceError(
            f"{file}: expected {samples} samples that end at byte {nbytes}, found {numbers[0]} that end at "
            f"{offsets[-1]}: cut off or damaged"
        )
    return offsets


def _pieces(shards: Sequence[Shard], start: int, stop: int) -> Iterator[tuple[Shard, int, int]]:
    for shard in shards:
        if start < len(shard) and stop > start:
            yield shard, start, min(stop, len(shard))
        start, stop = max(start - len(shard), 0), max(stop - len(shard), 0)


def _kind(shards: Mapping[str, tuple[Shard, ...]], name: str) -> Column:
    """Return what a column holds, by its encoding and its first value."""
    first = next(iter(shards.values()))[0]
    kind = first.columns[name].column(first.cells(name, 0, 1))
    if kind != TEXT and math.prod(kind.shape) > MOST_CODES:
        raise SourceError(f"{first.file}: column {name!r}: expected up to {MOST_CODES} values, found {kind}")
    return kind


def _label_name(known: Mapping[str, Encoding], given: str | None, where: str) -> str | None:
    if given is not None and given not in known:
        parameter = Parameter("label_column", given)
        raise SourceError(
            f"{where}: {parameter}: no such column; found {shortened(list(known), 20)}",
            parameters=[parameter],
        )
    return given or next((name for name in LABEL_NAMES if name in known and known[name].is_label), None)


def _labels(
    shards: Mapping[str, tuple[Shard, ...]], name: str, where: str
) -> tuple[dict[str, Labels], tuple[str, ...] | None]:
    kind = _kind(shards, name)
    of_splits: dict[str, list[npt.NDArray[Any]]] = {split: [] for split in shards}
    for split, of_split in shards.items():
        column = ShardColumn(kind, of_split, name)
        total = sum(map(len, of_split))
        for start in range(0, total, _MOST_LABEL_ROWS):
            of_splits[split].append(column.read(start, min(start + _MOST_LABEL_ROWS, total)))
    if kind == TEXT:
        texts = {
            split: pa.chunked_array(
                [pa.array([text.encode() for text in part], pa.binary()) for part in parts]
            )
            for split, parts in of_splits.items()
        }
        return label_splits(texts, f"{where}: column {name!r}", may_be_numbers=False)
    labels = {
        split: check_labels(np.concatenate(parts), f"{where}: column {name!r} of split {split}")
        for split, parts in of_splits.items()
    }
    check_class_range(labels, None, where)
    return labels, None


def _holds(folder: Path) -> bool:
    return any(_is_index(path) for path in (folder / _INDEX, *(each / _INDEX for each in folders_in(folder))))


def _is_index(path: Path) -> bool:
    """Return whether a file names the format of its first shards."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return b'"mds"' in file.read(_LOOKED_AT)


SOURCE = SourceKind(
    open=open_mds,
    holds=_holds,
    looked_for=f"MDS shards ({_INDEX})",
    options=frozenset({"token_column", "label_column", "columns"}),
    precedence=-1,
)
"""The kind `mds`."""
