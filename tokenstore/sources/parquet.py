"""The source of images in Parquet files, as the Hugging Face hub stores them or as plain columns.

The image column holds encoded bytes, a struct of `bytes` and `path`, or paths relative to the file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from typing_extensions import override

from tokenstore.errors import SampleError, SourceError
from tokenstore.sources.base import ImageRequest, ImageSource, ImageSplit, Labels
from tokenstore.sources.file_bytes import read_file
from tokenstore.sources.labels import check_class_range, check_labels, label_splits
from tokenstore.sources.names import check_range, digest, printable
from tokenstore.sources.parquet_columns import Columns, choose_columns
from tokenstore.sources.registry import SourceKind
from tokenstore.sources.shard_files import find_shards, has_shards

ENDINGS = (".parquet",)

_HIDDEN_LABEL = -1
"""The label of every sample of a hub's test split whose labels are secret."""


@dataclass(frozen=True)
class ParquetRequest(ImageRequest):
    """A request for some rows of one column."""

    pieces: tuple[tuple[str, int, int, int], ...]
    """The pieces of row groups: (path, row group, first row, last row + 1 in the group)."""
    column: str

    @override
    def read(self) -> Sequence[bytes | SampleError]:
        images: list[bytes | SampleError] = []
        for path, group, start, stop in self.pieces:
            try:
                values = _row_group(path, group, self.column).slice(start, stop - start).to_pylist()
            except (pa.ArrowException, OSError) as error:
                text = " ".join(str(error).split())
                images += [SampleError(f"row group {group} of {path} cannot be read: {text}")] * (
                    stop - start
                )
            else:
                images += [_encoded(value, Path(path).parent) for value in values]
        return images


@lru_cache(maxsize=1)
def _row_group(path: str, group: int, column: str) -> pa.ChunkedArray:
    """Read one column of a row group; the last one is cached, as neighbouring requests read the same."""
    with pq.ParquetFile(path) as file:
        return file.read_row_group(group, columns=[column], use_threads=False).column(0)


def _encoded(value: Any, folder: Path) -> bytes | SampleError:
    """Return the image file of a cell: bytes, a struct of bytes and path, or a path below the folder."""
    if isinstance(value, Mapping):
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    if value is None:
        return SampleError("the image is null")
    return value if isinstance(value, bytes) else read_file(str(folder / value))


@dataclass(frozen=True)
class _RowGroups:
    """The row groups of a split, one element a row group."""

    files: npt.NDArray[np.int32]
    """The index of the file in the split."""
    numbers: npt.NDArray[np.int32]
    """The number of the row group in the file."""
    starts: npt.NDArray[np.int64]
    """The first sample of each row group, and at the end the number of samples."""


@dataclass(frozen=True)
class ParquetSplit(ImageSplit):
    """The rows of some Parquet files, in file order."""

    paths: tuple[Path, ...]
    column: str
    groups: _RowGroups
    all_labels: Labels | None

    @override
    def __len__(self) -> int:
        return int(self.groups.starts[-1])

    @override
    def names(self, start: int, stop: int) -> pa.Array:
        check_range(start, stop, len(self))
        samples = np.arange(start, stop)
        files = self.groups.files[np.searchsorted(self.groups.starts, samples, "right") - 1]
        rows = samples - self.groups.starts[np.searchsorted(self.groups.files, files)]
        file_names = [printable(os.fsencode(path.name)) for path in self.paths]
        pairs = zip(files.tolist(), rows.tolist(), strict=True)
        return pa.array([f"{file_names[file]}[{row}]" for file, row in pairs], pa.string())

    @override
    def labels(self, start: int, stop: int) -> Labels | None:
        check_range(start, stop, len(self))
        return None if self.all_labels is None else self.all_labels[start:stop]

    @override
    def fingerprint(self) -> str:
        files = repr([(path.name, path.stat().st_size) for path in self.paths])
        return digest(files, self.column, self.groups.files, self.groups.starts, self.all_labels)

    @override
    def request(self, start: int, stop: int) -> ParquetRequest:
        check_range(start, stop, len(self))
        starts, pieces = self.groups.starts, []
        first = int(np.searchsorted(starts, start, "right")) - 1
        for group in range(first, int(np.searchsorted(starts, stop))):
            path, begin = str(self.paths[self.groups.files[group]]), int(starts[group])
            rows = max(start - begin, 0), min(stop, int(starts[group + 1])) - begin
            pieces.append((path, int(self.groups.numbers[group]), *rows))
        return ParquetRequest(tuple(pieces), self.column)


def open_parquet(location: str | Path) -> ImageSource:
    """List the rows of Parquet files: one file, a pattern, or a folder of files.

    A split whose labels are all -1, as secret test labels are, has no labels.

    Raises SourceError if no column holds images, if files differ in their columns, and for labels that are
    null or negative.
    """
    shards = find_shards(location, ENDINGS)
    with _open(next(iter(shards.splits.values()))[0]) as first:
        columns = choose_columns(first.schema_arrow, str(location))
    groups, values = {}, {}
    for split, paths in shards.splits.items():
        groups[split], values[split] = _list_split(paths, columns)
        if not groups[split].starts[-1]:
            raise SourceError(f"{location}: the Parquet files of split {split} have no rows")
    labels, class_names = _labels(values, columns, str(location))
    splits = {
        split: ParquetSplit(paths, columns.image, groups[split], labels.get(split))
        for split, paths in shards.splits.items()
    }
    return ImageSource("parquet", str(location), splits, class_names, columns.notes)


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{path}: expected a Parquet file: {error}") from error


def _list_split(paths: Sequence[Path], columns: Columns) -> tuple[_RowGroups, pa.ChunkedArray | None]:
    """Return the row groups of some files, and the values of the label column."""
    files, numbers, sizes, chunks = [], [], [], []
    for number, path in enumerate(paths):
        with _open(path) as file:
            for name in (columns.image, columns.label):
                if name is not None and name not in file.schema_arrow.names:
                    raise SourceError(f"{path}: has no column {name!r}, unlike the first file")
            for group in range(file.num_row_groups):
                files.append(number)
                numbers.append(group)
                sizes.append(file.metadata.row_group(group).num_rows)
            if columns.label is not None:
                chunks += _label_values(file, path, columns.label)
    starts = np.concatenate(([0], np.cumsum(sizes, dtype=np.int64)))
    groups = _RowGroups(np.array(files, np.int32), np.array(numbers, np.int32), starts)
    if columns.label is None:
        return groups, None
    if len({chunk.type for chunk in chunks}) > 1:
        raise SourceError(f"{paths[0].parent}: column {columns.label!r} has numbers in some files only")
    return groups, pa.chunked_array(chunks)


def _label_values(file: pq.ParquetFile, path: Path, name: str) -> list[pa.Array]:
    """Read labels as `pa.int64()`, or texts as `pa.binary()`."""
    try:
        values = file.read(columns=[name]).column(0)
        if pa.types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        kind = pa.int64() if pa.types.is_integer(values.type) else pa.binary()
        values = values.cast(kind)
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{path}: column {name!r} cannot be read: {error}") from error
    if values.null_count:
        row = values.is_null().index(True).as_py()
        raise SourceError(f"{path}: {values.null_count} labels are null (first: row {row} of {name!r})")
    chunks: list[pa.Array] = values.chunks
    return chunks


def _labels(
    values: Mapping[str, pa.ChunkedArray | None], columns: Columns, where: str
) -> tuple[dict[str, Labels], tuple[str, ...] | None]:
    known = {split: column for split, column in values.items() if column is not None}
    if not known:
        return {}, None
    if all(pa.types.is_binary(column.type) for column in known.values()):
        return label_splits(known, where)
    labels = {}
    for split, column in known.items():
        if not pa.types.is_integer(column.type):
            raise SourceError(f"{where}: column {columns.label!r} has numbers in some splits only")
        numbers = column.to_numpy()
        if (numbers != _HIDDEN_LABEL).any():
            labels[split] = check_labels(numbers, f"{where}: column {columns.label!r} of split {split}")
    check_class_range(labels, columns.class_names, where)
    return labels, columns.class_names


def _is_parquet_folder(folder: Path) -> bool:
    return has_shards(folder, ENDINGS)


SOURCE = SourceKind(open=open_parquet, holds=_is_parquet_folder, looked_for=".parquet files", endings=ENDINGS)
"""The kind `parquet`."""
