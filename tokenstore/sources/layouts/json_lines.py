r"""The source of codes in JSON lines, as RAR, TiTok and AliTok write them: an object a line.

    {"class_id": 207, "tokens": [512, 3, 77, ...]}

Each line is a sample; several lines may be views of one image, which nothing says. Files are read in blocks
of whole lines, by Arrow's parser, and no line becomes a Python object.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from typing_extensions import override

from tokenstore.codecs import Column
from tokenstore.errors import Parameter, SampleError, SourceError
from tokenstore.sources.arrow_types import READ_ERRORS
from tokenstore.sources.arrow_values import Extent, column_values
from tokenstore.sources.base import CodeSource, Labels, SourceColumn
from tokenstore.sources.code_values import MOST_CODES, check_shape
from tokenstore.sources.files import SourceFile, reading
from tokenstore.sources.further import missing_field, not_used, requested_fields
from tokenstore.sources.labels import LABEL_NAMES, check_labels
from tokenstore.sources.layouts.json_parsing import parsed_lines
from tokenstore.sources.layouts.rows import CodeRows, JoinedRows, LayoutSplit, chosen_tokens, grid_of
from tokenstore.sources.names import digest
from tokenstore.sources.registry import SourceKind
from tokenstore.sources.shard_files import find_shards, folder_has_shards, has_shards
from tokenstore.storage import public_url

ENDINGS = (".jsonl", ".ndjson")
Line: TypeAlias = dict[Any, Any]
"""A line's object, by the names of its fields."""

_BLOCK_NBYTES = 2**22
_MOST_LINE_NBYTES = 2**26
_MOST_DEPTH = 8
_KEPT_BLOCKS = 4


@dataclass(frozen=True)
class _Fields:
    """The fields of the lines that are read, and the shape of a line's codes."""

    tokens: str
    grid: tuple[int, ...]
    label: str | None
    further: tuple[str, ...]

    def schema(self) -> pa.Schema:
        """Return the types that lines are read as; further fields are of whatever type they have."""
        tokens: pa.DataType = pa.int64()
        for _ in self.grid:
            tokens = pa.list_(tokens)
        return pa.schema({self.tokens: tokens} | ({} if self.label is None else {self.label: pa.int64()}))


@dataclass(frozen=True)
class _LineFile:
    """A file of lines: the bytes at which its blocks of whole lines begin, and the first line of each."""

    file: SourceFile
    offsets: npt.NDArray[np.int64]
    """The offset of each block, and at the end the size of the file."""
    lines: npt.NDArray[np.int64]
    """The first sample of each block, and at the end the number of samples."""
    fields: _Fields

    def __len__(self) -> int:
        return int(self.lines[-1])

    def tables(self, start: int, stop: int) -> Iterator[pa.Table]:
        """Yield the fields of lines [start, stop), block by block; raise SourceError for damaged ones."""
        first = int(np.searchsorted(self.lines, start, "right")) - 1
        for block in range(first, int(np.searchsorted(self.lines, stop))):
            begin, end = int(self.lines[block]), int(self.lines[block + 1])
            table = _parsed(self, block)
            if len(table) != end - begin:
                raise SourceError(f"{self.file}: the file has changed since it was listed")
            yield table.slice(max(start - begin, 0), min(stop, end) - max(start, begin))


_of_this_thread = threading.local()
"""The blocks that this thread parsed last, by file and place: neighbouring ranges share a block."""


def _parsed(file: _LineFile, block: int) -> pa.Table:
    begin, end = int(file.offsets[block]), int(file.offsets[block + 1])
    key = (file.file.key, begin, end, file.fields)
    blocks: dict[Any, pa.Table] = _of_this_thread.__dict__.setdefault("blocks", {})
    if key not in blocks:
        (data,) = file.file.read_ranges([(begin, end - begin)])
        if isinstance(data, SampleError):
            raise SourceError(str(data))
        while len(blocks) >= _KEPT_BLOCKS:
            del blocks[next(iter(blocks))]
        blocks[key] = _parse(data, file.fields, f"{file.file}: lines from {file.lines[block]} on")
    return blocks[key]


def _parse(data: bytes, fields: _Fields, where: str) -> pa.Table:
    """Return the fields of whole lines; raise SourceError for what is no object with these fields a line."""
    try:
        return parsed_lines(data, fields.schema(), fields.further)
    except READ_ERRORS as error:
        text = " ".join(str(error).split())
        raise SourceError(f"{where}: expected JSON objects with {fields.tokens!r}: {text}") from error


@dataclass(frozen=True)
class LineRows(CodeRows):
    """The codes in the lines of one file."""

    lines: _LineFile

    @property
    @override
    def where(self) -> str:
        return str(self.lines.file)

    @property
    @override
    def grid(self) -> tuple[int, ...]:
        return self.lines.fields.grid

    @override
    def __len__(self) -> int:
        return len(self.lines)

    @override
    def rows(self, start: int, stop: int) -> npt.NDArray[np.generic]:
        column = Column(np.dtype(np.int64), self.grid)
        parts: list[npt.NDArray[np.generic]] = [np.empty((0, *self.grid), np.int64)]
        for table in self.lines.tables(start, stop):
            for cells in table[self.lines.fields.tokens].chunks:
                parts.append(column_values(cells, column, f"{self.where}: {self.lines.fields.tokens}"))
        return np.concatenate(parts)

    @override
    def names(self, start: int, stop: int) -> pa.Array:
        return pa.array([f"{self.lines.file.name}[{row}]" for row in range(start, stop)], pa.string())

    @override
    def fingerprint(self) -> str:
        file = self.lines
        return digest(file.file.name, file.offsets, file.lines, repr(file.fields))


@dataclass(frozen=True)
class LineColumn(SourceColumn):
    """The values of a further field of the lines of some files."""

    kind: Column
    files: tuple[_LineFile, ...]
    name: str

    @property
    @override
    def column(self) -> Column:
        return self.kind

    @override
    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        parts = [np.empty((0, *self.kind.shape), self.kind.dtype)]
        for file in self.files:
            for table in file.tables(max(start, 0), min(stop, len(file))) if start < len(file) else ():
                where = f"{file.file}: field {self.name!r}"
                parts += [column_values(each, self.kind, where) for each in _cells(table, self.name).chunks]
            start, stop = max(start - len(file), 0), max(stop - len(file), 0)
        return np.concatenate(parts)

    @override
    def fingerprint(self) -> str:
        return digest(self.name, str(self.kind))  # the files are in that of the split


def _cells(table: pa.Table, name: str) -> pa.ChunkedArray:
    return table[name] if name in table.column_names else pa.chunked_array([pa.nulls(len(table))])


def open_json_lines(
    location: str | Path,
    *,
    token_column: str | None = None,
    label_column: str | None = None,
    columns: Sequence[str] | None = None,
    source_storage_options: Mapping[str, Any] | None = None,
) -> CodeSource:
    """Open the codes in files of JSON lines: a file, a pattern, or a folder of files named after splits.

    `token_column` is the field of codes, a list or lists of lists of one shape, by default `tokens` or the
    like; `label_column` that of labels, by default `class_id` or the like. `columns` are further fields. The
    location may be a URL, for which `source_storage_options` are fsspec's.

    All lines are read once to be counted and checked. Raises SourceError, naming the line, for what is no
    object of these fields, for codes of another shape than those of the first line, and for labels that only
    some lines of a split have; splits may have none.
    """
    where = public_url(str(location))
    requested = requested_fields(columns, where)
    shards = find_shards(location, ENDINGS, source_storage_options)
    firsts = {str(files[0]): _first_line(files[0]) for files in shards.splits.values()}
    fields = _fields(firsts, token_column, label_column, tuple(requested.values()))
    extents = {name: Extent(f"{where}: field {name!r}") for name in fields.further}
    splits, listed = {}, {}
    for split, files in shards.splits.items():
        lines = [_list(file, fields, extents) for file in files]
        listed[split] = tuple(file for file, _ in lines)
        rows = JoinedRows.of([LineRows(file) for file in listed[split]], where)
        splits[split] = LayoutSplit(rows, _joined([labels for _, labels in lines], files, fields.label))
    further: dict[str, dict[str, SourceColumn]] = {
        split: {name: LineColumn(extents[each].column(), files, each) for name, each in requested.items()}
        for split, files in listed.items()
    }
    return CodeSource(
        kind="jsonl",
        location=where,
        splits=splits,
        grid=grid_of({split: of_split.stored for split, of_split in splits.items()}, where),
        notes=(*shards.notes, *_unused(firsts.values(), fields), *_unlabelled(splits, fields.label)),
        further=further if requested else {},
    )


def _fields(
    firsts: Mapping[str, Line], tokens: str | None, label: str | None, further: tuple[str, ...]
) -> _Fields:
    """Return the fields that first lines, by their files, have; raise SourceError where one is missing."""
    file, first = next(iter(firsts.items()))
    shapes = {name: _shape(value) for name, value in first.items() if isinstance(name, str)}
    name = chosen_tokens(tokens, {name: bool(shape) for name, shape in shapes.items()}, file, "field")
    shape = shapes[name]
    check_shape(np.dtype(_leaf_type(first[name])), (1, *(shape or ())), f"{file}: field {name!r}")
    lines = firsts.values()
    if label is not None and not any(label in line for line in lines):
        parameter = Parameter("label_column", label)
        raise SourceError(f"{file}: {parameter}: the first line has no such field", parameters=[parameter])
    for each in further:
        if each not in first:
            raise missing_field(file, each, list(first))
    names = (each for each in LABEL_NAMES for line in lines if type(line.get(each)) is int and each != name)
    return _Fields(name, shape or (), next(names, None) if label is None else label, further)


def _joined(labels: Sequence[Labels | None], files: Sequence[SourceFile], field: str | None) -> Labels | None:
    """Return the labels of a split's files, None if none has any; raise SourceError if only some have."""
    present = [of_file for of_file in labels if of_file is not None]
    if 0 < len(present) < len(labels):
        without = next(file for file, of_file in zip(files, labels, strict=True) if of_file is None)
        raise SourceError(f"{without}: its lines have no {field!r}, unlike other files of the split")
    return np.concatenate(present) if present else None


def _unlabelled(splits: Mapping[str, LayoutSplit], field: str | None) -> tuple[str, ...]:
    """Return a note on each split that has no labels, where others have."""
    names = [split for split, of_split in splits.items() if of_split.all_labels is None]
    return tuple(f"split {name} has no labels: its lines have no {field!r}" for name in names if field)


def _first_line(file: SourceFile) -> Line:
    """Return the object in a file's first line; raise SourceError for another line."""
    line = next((line for block in _blocks(file) for line in block.split(b"\n") if line.strip()), b"")
    try:
        first = json.loads(line)
        if not isinstance(first, dict):
            raise ValueError(f"a {type(first).__name__}")
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{file}: expected a JSON object in the first line: {error}") from error
    return first


def _unused(lines: Iterable[Line], fields: _Fields) -> tuple[str, ...]:
    """Return a note on the fields of lines that become no codes, labels or columns."""
    used = {fields.tokens, fields.label, *fields.further}
    names = dict.fromkeys(name for line in lines for name in line)
    return not_used("fields", [name for name in names if name not in used])


def _shape(value: Any) -> tuple[int, ...] | None:
    """Return the shape of lists of lists, by the first ones; None for what is no list."""
    shape: list[int] = []
    while isinstance(value, list) and len(shape) < _MOST_DEPTH:
        shape.append(len(value))
        value = value[0] if value else None
    return tuple(shape) if shape and np.prod(shape, dtype=np.float64) <= MOST_CODES else None


def _leaf_type(value: Any) -> str:
    while isinstance(value, list) and value:
        value = value[0]
    return {int: "i8", float: "f8", list: "i8"}.get(type(value), "U1")


def _list(
    file: SourceFile, fields: _Fields, extents: Mapping[str, Extent]
) -> tuple[_LineFile, Labels | None]:
    """Read a file once: return its blocks of lines, and the labels of its lines."""
    offsets, lines = [0], [0]
    labels: list[pa.Array] = []
    for block in _blocks(file):
        where = f"{file}: lines from {lines[-1]} on"
        table = _parse(block, fields, where)
        _check(table, fields, where)
        if fields.label is not None:
            labels.append(table[fields.label].combine_chunks())
        for name, extent in extents.items():
            for cells in _cells(table, name).chunks:
                extent.add(cells)
        offsets.append(offsets[-1] + len(block))
        lines.append(lines[-1] + len(table))
    if not lines[-1]:
        raise SourceError(f"{file}: expected a JSON object a line, found an empty file")
    listed = _LineFile(file, np.array(offsets, np.int64), np.array(lines, np.int64), fields)
    return listed, _labels(pa.chunked_array(labels), f"{file}", fields.label) if labels else None


def _labels(cells: pa.ChunkedArray, where: str, field: str | None) -> Labels | None:
    """Return the labels of a file's lines, None if no line has any; raise SourceError if only some have."""
    missing = cells.null_count
    if missing == len(cells):
        return None
    if missing:
        row = pc.is_null(cells).index(True).as_py()
        raise SourceError(f"{where}: {missing} lines have no {field!r} (first: line {row + 1})")
    return check_labels(cells.to_numpy(), f"{where}: {field}")


def _check(table: pa.Table, fields: _Fields, where: str) -> None:
    """Raise SourceError for lines without codes, or of another number of codes."""
    missing = table[fields.tokens].null_count
    if missing:
        row = pc.is_null(table[fields.tokens]).index(True).as_py()
        raise SourceError(f"{where}: {missing} have no {fields.tokens!r} (first: the {row + 1}. of them)")
    lengths = pc.list_value_length(table[fields.tokens])
    bounds = pc.min_max(lengths).as_py()
    if len(table) and bounds != {"min": fields.grid[0], "max": fields.grid[0]}:
        row = pc.not_equal(lengths, fields.grid[0]).index(True).as_py()
        raise SourceError(
            f"{where}: expected {fields.grid[0]} codes a line as in the first line, found "
            f"{lengths[row].as_py()} in the {row + 1}. of them"
        )


def _blocks(file: SourceFile) -> Iterator[bytes]:
    """Yield the bytes of a file, in blocks that end with a line."""
    with reading(file) as reader:
        rest = b""
        while data := reader.read(_BLOCK_NBYTES):
            cut = data.rfind(b"\n") + 1
            if cut:
                yield rest + data[:cut]
                rest = data[cut:]
            else:
                rest += data
            if len(rest) > _MOST_LINE_NBYTES:
                raise SourceError(
                    f"{file}: expected lines of up to {_MOST_LINE_NBYTES} bytes, found a longer one"
                )
        if rest:
            yield rest


SOURCE = SourceKind(
    open=open_json_lines,
    holds=partial(folder_has_shards, endings=ENDINGS),
    looked_for=".jsonl files",
    endings=ENDINGS,
    options=frozenset({"token_column", "label_column", "columns", "source_storage_options"}),
    holds_url=partial(has_shards, endings=ENDINGS),
    precedence=-1,
)
"""The kind `jsonl`."""
