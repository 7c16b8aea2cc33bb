"""The source of codes in Zarr arrays, format 2 or 3, of any codec that zarr-python reads.

    codes.zarr                      an array (N, *grid), or a group with
      tokens, or another array      codes (N, *grid)
      labels                        labels (N,)
      train/, val/ ...              or instead a group of these for each split

An array's attribute, or its group's, `tokenizer` names the tokenizer, and `class_names` the classes. Metadata
that name a codec of pickled objects are refused before anything is opened.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from typing_extensions import override

from tokenstore.codecs import TEXT, Column
from tokenstore.errors import Parameter, SourceError
from tokenstore.sources.base import UNKNOWN_TOKENIZER, CodeSource, Labels, SourceColumn
from tokenstore.sources.code_values import MOST_CODES, check_shape
from tokenstore.sources.files import LocalFile, json_object
from tokenstore.sources.folders import folders_in
from tokenstore.sources.further import missing_field, not_used, requested_fields
from tokenstore.sources.labels import LABEL_NAMES, check_class_range, check_label_kind, check_labels
from tokenstore.sources.layouts.rows import CodeRows, LayoutSplit, chosen_tokens, grid_of
from tokenstore.sources.names import digest
from tokenstore.sources.registry import SourceKind
from tokenstore.sources.split_names import DEFAULT_SPLIT, group_folders, in_usual_order, split_of_folder
from tokenstore.texts import shortened

_MARKERS = ("zarr.json", ".zarray", ".zgroup")
_ARRAY_FILES = ("zarr.json", ".zarray")
_TOKEN_STORE = "tokenstore"
"""The attribute of a token store's root."""
_MOST_METADATA_NBYTES = 2**24
_MOST_BAND_NBYTES = 2**30
"""The bytes of the chunks that one row lies in, above which rows cannot be read in bounded memory."""
_UNSAFE = "pickle"
_UNREADABLE = (
    ValueError,
    TypeError,
    KeyError,
    OSError,
    RuntimeError,
    AttributeError,
    OverflowError,
    MemoryError,
)
"""The errors by which zarr-python and its codecs say that an array cannot be read."""


@dataclass(frozen=True)
class ZarrRows(CodeRows):
    """The rows of one array, read by whole bands of chunks, of which the last is kept."""

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    band: int
    """The rows of a chunk."""
    metadata: LocalFile
    """The file that tells another array of the same shape that was written in its place."""
    _state: threading.local = field(default_factory=threading.local, compare=False, repr=False)

    @property
    @override
    def where(self) -> str:
        return self.path

    @property
    @override
    def grid(self) -> tuple[int, ...]:
        return self.shape[1:]

    @override
    def __len__(self) -> int:
        return self.shape[0]

    @override
    def rows(self, start: int, stop: int) -> npt.NDArray[np.generic]:
        rows = np.empty((stop - start, *self.grid), self.dtype)
        first = start - start % self.band
        for begin in range(first, stop, self.band):
            band = self._band(begin)
            low, high = max(start, begin), min(stop, begin + len(band))
            rows[low - start : high - start] = band[low - begin : high - begin]
        return rows

    def _band(self, begin: int) -> npt.NDArray[np.generic]:
        state = self._state
        if getattr(state, "begin", None) != begin:
            stop = min(begin + self.band, len(self))
            try:
                if not hasattr(state, "array"):
                    state.array = _array(self.path)
                state.band = np.asarray(state.array[begin:stop])
                self.metadata.check_unchanged()
            except _UNREADABLE as error:
                raise SourceError(
                    f"{self.path}: rows [{begin}, {stop}) cannot be read: {type(error).__name__}: {error}"
                ) from error
            if state.band.shape != (stop - begin, *self.grid) or state.band.dtype != self.dtype:
                raise SourceError(f"{self.path}: the array has changed since it was opened")
            state.begin = begin
        band: npt.NDArray[np.generic] = state.band
        return band

    @override
    def names(self, start: int, stop: int) -> pa.Array:
        name = Path(self.path).name
        return pa.array([f"{name}[{row}]" for row in range(start, stop)], pa.string())

    @override
    def fingerprint(self) -> str:
        return digest(Path(self.path).name, repr(self.shape), self.dtype.str)

    def __reduce__(self) -> Any:
        return ZarrRows, (self.path, self.shape, self.dtype, self.band, self.metadata)


@dataclass(frozen=True)
class ZarrColumn(SourceColumn):
    """A further array of numbers or texts, a row a sample."""

    kind: Column
    stored: ZarrRows

    @property
    @override
    def column(self) -> Column:
        return self.kind

    @override
    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        rows = self.stored.rows(start, stop)
        if not self.kind.is_ragged:
            return rows
        texts: npt.NDArray[Any] = np.empty(len(rows), object)
        texts[:] = [str(text) for text in rows.tolist()]
        return texts

    @override
    def fingerprint(self) -> str:
        return self.stored.fingerprint()


def open_zarr(
    location: str | Path,
    *,
    token_column: str | None = None,
    label_column: str | None = None,
    columns: Sequence[str] | None = None,
) -> CodeSource:
    """Open the codes in a local Zarr array, a group of arrays, or a group with a group for each split.

    `token_column` is the array of codes (N, *grid), by default `tokens` or the like; `label_column` that of
    labels (N,), by default `labels` or the like. `columns` are further arrays of N rows.

    Raises SourceError for metadata that cannot be read or that name a codec of pickled objects, for a token
    store, and for arrays that are not there or do not fit.
    """
    root = Path(location).absolute()
    fields = requested_fields(columns, str(location))
    attributes = _attributes(root)
    if _TOKEN_STORE in attributes:
        raise SourceError(
            f"{location}: a Zarr hierarchy that is a token store; expected images or codes to convert. "
            "`tokenstore recode` writes a store again, `tokenstore copy` copies it"
        )
    splits, labels = {}, {}
    notes: list[str] = []
    further: dict[str, dict[str, SourceColumn]] = {}
    for split, folder in _split_folders(root).items():
        arrays = {root.name: root} if folder == root and _is_array(root) else _arrays(folder)
        opened = {name: _open(path) for name, path in arrays.items()}
        known = {name: rows.dtype.kind in "iuf" and len(rows.shape) > 1 for name, rows in opened.items()}
        name = chosen_tokens(token_column, known, str(folder), "array")
        rows = opened[name]
        check_shape(rows.dtype, rows.shape, rows.path)
        labels[split] = _labels(opened, name, label_column, str(folder))
        splits[split] = LayoutSplit(rows, labels[split])
        further[split] = {column: _column(opened, each, len(rows), folder) for column, each in fields.items()}
        notes += _notes(rows, opened, name, label_column, fields)
        attributes = {**_attributes(folder), **_attributes(Path(rows.path)), **attributes}
    class_names, tokenizer = _class_names(attributes, str(location)), attributes.get("tokenizer")
    check_class_range({k: v for k, v in labels.items() if v is not None}, class_names, str(location))
    return CodeSource(
        kind="zarr",
        location=str(location),
        splits=splits,
        grid=grid_of({split: each.stored for split, each in splits.items()}, str(location)),
        class_names=class_names,
        tokenizer_name=tokenizer if isinstance(tokenizer, str) and tokenizer else UNKNOWN_TOKENIZER,
        notes=tuple(dict.fromkeys(notes)),
        further=further if fields else {},
    )


def _split_folders(root: Path) -> Mapping[str, Path]:
    """Return the group, or the array, of each split."""
    if not _holds(root):
        raise SourceError(f"{root}: expected a Zarr array or group, found no {' or '.join(_MARKERS)}")
    if not _is_array(root):
        below = [path.name for path in folders_in(root) if _holds(path)]
        groups = [name for name in below if not _is_array(root / name)]
        named = group_folders(groups, str(root)) if groups else None
        if named:
            return {split: root / named[split] for split in in_usual_order(named)}
    return {split_of_folder(root.name.removesuffix(".zarr")) or DEFAULT_SPLIT: root}


def _arrays(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in folders_in(folder) if _is_array(path)}


def _is_array(folder: Path) -> bool:
    if (folder / ".zarray").is_file():
        return True
    return (folder / "zarr.json").is_file() and _metadata(folder / "zarr.json").get("node_type") == "array"


def _metadata(path: Path) -> dict[str, Any]:
    """Return what a file of metadata holds; raise SourceError unless it is an object."""
    return json_object(path, _MOST_METADATA_NBYTES, "Zarr metadata in JSON")


def _attributes(folder: Path) -> dict[str, Any]:
    path = folder / "zarr.json"
    if path.is_file():
        attributes = _metadata(path).get("attributes")
        return attributes if isinstance(attributes, dict) else {}
    return _metadata(folder / ".zattrs") if (folder / ".zattrs").is_file() else {}


def _open(folder: Path) -> ZarrRows:
    """Open an array; raise SourceError for pickles, and for what zarr-python does not read."""
    for name in _ARRAY_FILES:
        if (folder / name).is_file() and any(
            _UNSAFE in each for each in _codec_names(_metadata(folder / name))
        ):
            raise SourceError(
                f"{folder}: its codec holds pickled objects, which are not read; write the codes as integers"
            )
    metadata = LocalFile.of(next(path for name in _ARRAY_FILES if (path := folder / name).is_file()))
    try:
        array = _array(str(folder))
        shape, dtype, chunks = tuple(array.shape), np.dtype(array.dtype), tuple(array.chunks)
    except _UNREADABLE as error:
        raise SourceError(f"{folder}: cannot be opened: {type(error).__name__}: {error}") from error
    if not all(chunks):
        raise SourceError(f"{folder}: expected chunks of one row or more, found {chunks}")
    band = chunks[0] if chunks else 1
    nbytes = (
        dtype.itemsize * band * math.prod(max(sizes) for sizes in zip(shape[1:], chunks[1:], strict=True))
    )
    if nbytes > _MOST_BAND_NBYTES:
        raise SourceError(
            f"{folder}: expected chunks of few rows, found {band} rows of {nbytes:,} bytes; write smaller "
            "chunks"
        )
    return ZarrRows(str(folder), shape, dtype, band, metadata)


def _array(path: str) -> Any:
    """Return the array of zarr-python at a path."""
    import zarr  # not above: whoever looks what kind a folder is imports this module

    return zarr.open_array(path, mode="r")


def _codec_names(value: Any) -> Iterator[str]:
    """Yield the names of all codecs, filters and compressors in metadata, in lower case."""
    stack = [value]
    while stack:
        each = stack.pop()
        if isinstance(each, dict):
            yield from (str(each[name]).lower() for name in ("id", "name") if name in each)
            stack += [inner for name, inner in each.items() if name != "attributes"]
        elif isinstance(each, list):
            stack += each


def _labels(arrays: Mapping[str, ZarrRows], tokens: str, given: str | None, where: str) -> Labels | None:
    parameter = Parameter("label_column", given)
    if given is not None and given not in arrays:
        raise SourceError(
            f"{where}: {parameter}: no such array; found {shortened(list(arrays), 20)}",
            parameters=[parameter],
        )
    name = given or next((each for each in LABEL_NAMES if each in arrays and each != tokens), None)
    if name is None:
        return None
    rows = arrays[name]
    check_label_kind(rows.dtype, rows.shape, rows.path)
    if len(rows) != len(arrays[tokens]):
        raise SourceError(f"{rows.path}: {len(rows)} labels for {len(arrays[tokens])} samples")
    return check_labels(rows.rows(0, len(rows)), rows.path)


def _column(arrays: Mapping[str, ZarrRows], name: str, samples: int, folder: Path) -> ZarrColumn:
    if name not in arrays:
        raise missing_field(str(folder), name, list(arrays))
    rows = arrays[name]
    is_text = rows.dtype.kind in "UT" and len(rows.shape) == 1
    is_number = rows.dtype.kind in "biuf" and 0 < math.prod(rows.grid) <= MOST_CODES
    if not rows.shape or len(rows) != samples or not (is_text or is_number):
        raise SourceError(
            f"{rows.path}: expected numbers or texts, one row for each of {samples} samples, found "
            f"{rows.dtype} {rows.shape}"
        )
    return ZarrColumn(TEXT if is_text else Column(rows.dtype.newbyteorder("="), rows.grid), rows)


def _notes(
    rows: ZarrRows, arrays: Mapping[str, ZarrRows], tokens: str, label: str | None, fields: Mapping[str, str]
) -> Iterator[str]:
    """Yield the notes on chunks that are not stored, and on arrays that are not used."""
    array = _array(rows.path)
    missing = array.nchunks - array.nchunks_initialized
    if missing:
        yield f"array {tokens}: {missing} chunks are not stored, which Zarr reads as {array.fill_value}"
    rest = [name for name in arrays if name not in (tokens, label, *fields.values(), *LABEL_NAMES)]
    yield from not_used("arrays", rest)


def _class_names(attributes: Mapping[str, Any], where: str) -> tuple[str, ...] | None:
    names = attributes.get("class_names")
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise SourceError(f"{where}: expected class_names as a list of texts in the attributes")
    return tuple(names)


def _holds(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _MARKERS)


SOURCE = SourceKind(
    open=open_zarr,
    holds=_holds,
    looked_for="Zarr arrays (zarr.json, .zarray)",
    options=frozenset({"token_column", "label_column", "columns"}),
    precedence=1,
)
"""The kind `zarr`."""
