"""The source of commaVQ: packed tar files of driving videos, a minute a member.

    data-0000.tar.gz
      {k}.token.npy     int16 (1200, 8, 16): codes of 1,024, twenty frames a second
      {k}.pose.npy      floats, a row a frame
      {k}.json

A sample is a frame, or a window of frames that never leaves its minute. Packed files are read forwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from typing_extensions import override

from tokenstore.errors import SourceError
from tokenstore.sources.base import CodeSource, SourceColumn
from tokenstore.sources.code_values import check_shape
from tokenstore.sources.files import LocalFile, SourceFile
from tokenstore.sources.forward_stream import ForwardStream
from tokenstore.sources.further import missing_field, requested_fields
from tokenstore.sources.layouts.npy_members import PACKED, ListArrays, PackedFile, inflated
from tokenstore.sources.layouts.rows import CodeRows, JoinedRows, LayoutSplit, grid_of
from tokenstore.sources.layouts.windows import WindowColumn, WindowRows, Windows
from tokenstore.sources.listings import SavedListings, list_files
from tokenstore.sources.names import digest, printable_names, sliced
from tokenstore.sources.registry import SourceKind
from tokenstore.sources.shard_files import find_shards, folder_has_shards
from tokenstore.sources.tar_headers import walk_headers
from tokenstore.storage import public_url

_TOKENS, _ENDING = "token", ".npy"
_CODEBOOK_SIZE = 1024
_LOOKED_AT = 16
"""The members of a packed tar file that are looked at to find out whether it is one of codes."""


@dataclass(frozen=True)
class FrameRows(CodeRows):
    """The frames in the members of one packed tar file, one behind another."""

    file: SourceFile
    stream: ForwardStream
    keys: pa.Array
    """The names of the members without their endings, `pa.binary()`."""
    offsets: npt.NDArray[np.int64]
    """The offset of the first frame of each member."""
    starts: npt.NDArray[np.int64]
    """The first frame of each member, and at the end the number of frames."""
    dtype: np.dtype[np.generic]
    frame: tuple[int, ...]

    @property
    @override
    def where(self) -> str:
        return str(self.file)

    @property
    @override
    def grid(self) -> tuple[int, ...]:
        return self.frame

    @override
    def __len__(self) -> int:
        return int(self.starts[-1])

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Yield the members that frames [start, stop) lie in, each with its first and last frame."""
        first = int(np.searchsorted(self.starts, start, "right")) - 1
        for member in range(first, int(np.searchsorted(self.starts, stop))):
            begin, end = int(self.starts[member]), int(self.starts[member + 1])
            if max(start, begin) < min(stop, end):
                yield member, max(start - begin, 0), min(stop, end) - begin

    @override
    def rows(self, start: int, stop: int) -> npt.NDArray[np.generic]:
        rows = np.empty((stop - start, *self.frame), self.dtype.newbyteorder("="))
        nbytes, done = self.dtype.itemsize * int(np.prod(self.frame, dtype=np.int64)), 0
        for member, begin, end in self._pieces(start, stop):
            data = self.stream.read(int(self.offsets[member]) + begin * nbytes, (end - begin) * nbytes)
            part = np.frombuffer(data, self.dtype).reshape(end - begin, *self.frame)
            rows[done : done + end - begin] = part
            done += end - begin
        return rows

    @override
    def names(self, start: int, stop: int) -> pa.Array:
        if start == stop:
            return pa.array([], pa.string())
        pieces = list(self._pieces(start, stop))
        members = np.repeat([member for member, _, _ in pieces], [end - begin for _, begin, end in pieces])
        frames = np.concatenate([np.arange(begin, end) for _, begin, end in pieces])
        texts = pc.cast(pa.array(frames), pa.string())
        keys = printable_names(self.keys.take(pa.array(members)))
        ends = pc.binary_join_element_wise("[", texts, "]", "")
        return pc.binary_join_element_wise(f"{self.file.name}/", keys, ends, "")

    @override
    def fingerprint(self) -> str:
        keys = pa.chunked_array([self.keys])
        facts = f"{self.dtype.str}{self.frame}"
        return digest(self.file.name, keys, self.offsets, self.starts, facts)


def open_commavq(
    location: str | Path,
    *,
    window: int | None = None,
    stride: int | None = None,
    columns: Sequence[str] | None = None,
    source_storage_options: Mapping[str, Any] | None = None,
    listings: SavedListings | None = None,
) -> CodeSource:
    """Open packed tar files of videos of codes: one, a pattern, or a folder of such files.

    A sample is one frame (8, 16), or a window of `window` frames (T, 8, 16), `stride` frames apart, that
    never crosses a member. `columns` are further members `{k}.NAME.npy` of one row a frame, such as `pose`.
    The location may be a URL, for which `source_storage_options` are fsspec's. Files are listed by reading
    them once; listings are taken from `listings`, and saved there.

    Raises SourceError for files that are damaged or cut off, for members of other types or shapes than the
    first one, and for keys that occur twice or have no codes.
    """
    where = public_url(str(location))
    fields = requested_fields(columns, where)
    shards = find_shards(location, PACKED, source_storage_options, listings)
    splits: dict[str, LayoutSplit] = {}
    further: dict[str, dict[str, SourceColumn]] = {}
    notes = list(shards.notes)
    for split, files in shards.splits.items():
        listed = [listing.table for listing in list_files(files, ListArrays(), listings)]
        frames = [_frames(*pair, _TOKENS) for pair in zip(files, listed, strict=True)]
        for each in frames:
            check_shape(each.dtype, (1, *each.frame), each.where)
        lengths = np.concatenate([np.diff(each.starts) for each in frames])
        windows = Windows.of(lengths, window, stride, where)
        rows = WindowRows(JoinedRows.of(frames, where), windows, window is None)
        splits[split] = LayoutSplit(rows)
        further[split] = {name: _column(field, files, listed, frames, rows) for name, field in fields.items()}
        if windows.unused:
            notes.append(f"split {split}: {windows.unused} frames at ends of minutes are in no window")
    return CodeSource(
        kind="commavq",
        location=where,
        splits=splits,
        grid=grid_of({split: of_split.stored for split, of_split in splits.items()}, where),
        codebook_sizes=(_CODEBOOK_SIZE,),
        tokenizer_name="commavq",
        notes=tuple(notes),
        further=further if fields else {},
    )


def _frames(file: SourceFile, table: pa.Table, name: str) -> FrameRows:
    """Return the frames in the members `{k}.NAME.npy` of a file."""
    ending = f".{name}{_ENDING}".encode()
    table = table.filter(pc.ends_with(table["member"], pattern=ending))
    if not len(table):
        raise missing_field(str(file), name, ())
    table = table.combine_chunks()
    keys = pc.binary_slice(sliced(table["member"], 0, len(table)), 0, -len(ending))
    if len(pc.unique(keys)) < len(keys):
        counts = pc.value_counts(keys)
        twice = next(each["values"] for each in counts.to_pylist() if each["counts"] > 1)
        raise SourceError(f"{file}: key {twice!r} occurs twice")
    shapes, dtypes = table["shape"].to_pylist(), table["dtype"].unique().to_pylist()
    kinds = {tuple(shape[1:]) for shape in shapes}
    if len(dtypes) > 1 or len(kinds) > 1 or not all(shapes) or not all(map(all, shapes)):
        raise SourceError(
            f"{file}: expected members .{name}{_ENDING} of one type and shape, a row a frame, found "
            f"{dtypes[:3]} of {sorted(map(tuple, shapes))[:3]}"
        )
    stream = ForwardStream(cast(Any, partial(PackedFile, file)), str(file), file)
    starts = np.concatenate(([0], np.cumsum([shape[0] for shape in shapes], dtype=np.int64)))
    offsets = table["offset"].to_numpy()
    return FrameRows(file, stream, keys, offsets, starts, np.dtype(dtypes[0]), kinds.pop())


def _column(
    field: str,
    files: Sequence[SourceFile],
    listed: Sequence[pa.Table],
    codes: Sequence[FrameRows],
    rows: WindowRows,
) -> WindowColumn:
    """Return a further column, whose members go with those of the codes; raise SourceError otherwise."""
    values = [_frames(*pair, field) for pair in zip(files, listed, strict=True)]
    for of_codes, of_values in zip(codes, values, strict=True):
        alike = of_codes.keys.equals(of_values.keys) and np.array_equal(of_codes.starts, of_values.starts)
        if not alike or of_values.dtype.kind not in "biuf":
            raise SourceError(
                f"{of_values.where}: expected a member .{field}{_ENDING} of numbers for each "
                f".{_TOKENS}{_ENDING}, in the same order and with a row a frame"
            )
    joined = JoinedFrames.of_files(values, rows.where)
    return WindowColumn(joined, rows.windows, rows.is_single, values[0].dtype.newbyteorder("="))


@dataclass(frozen=True)
class JoinedFrames(JoinedRows):
    """The values of frames in several files, which are no codes."""

    @classmethod
    def of_files(cls, parts: Sequence[FrameRows], where: str) -> CodeRows:
        """Return the values of all files; raise SourceError for types or shapes that differ."""
        if len({(part.dtype.str, part.frame) for part in parts}) > 1:
            raise SourceError(f"{where}: expected values of one type and shape in all files")
        if len(parts) == 1:
            return parts[0]
        return cls(tuple(parts), np.concatenate(([0], np.cumsum([len(part) for part in parts]))))

    @override
    def rows(self, start: int, stop: int) -> npt.NDArray[np.generic]:
        pieces = [part.rows(begin, end) for part, begin, end in self._pieces(start, stop)]
        return np.concatenate(pieces) if pieces else self.parts[0].rows(0, 0)


def _holds_file(path: Path) -> bool:
    """Return whether one of the first members of a packed tar file is a video of codes."""
    file = LocalFile.of(path)
    ending = f".{_TOKENS}{_ENDING}".encode()
    try:
        with inflated(file) as (reader, length):
            return any(
                m.name.endswith(ending) for m in islice(walk_headers(reader, file, length), _LOOKED_AT)
            )
    except SourceError:
        return False


def _holds(folder: Path) -> bool:
    if not folder_has_shards(folder, PACKED):
        return False
    found = find_shards(folder, PACKED).splits
    first = next(iter(found.values()))[0]
    return isinstance(first, LocalFile) and _holds_file(Path(first.path))


SOURCE = SourceKind(
    open=open_commavq,
    holds=_holds,
    looked_for="commaVQ (.tar.gz of .token.npy)",
    endings=PACKED,
    options=frozenset({"window", "stride", "columns", "source_storage_options", "listings"}),
    holds_file=_holds_file,
    precedence=-1,
)
"""The kind `commavq`."""
