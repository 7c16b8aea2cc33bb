"""The source of the 1X world model data, version 1.1: videos of codes as one array of frames.

    metadata.json      num_images, s, and where it says so token_dtype and vocab_size
    video.bin          the codes (num_images, s, s), uint32 unless token_dtype says otherwise
    segment_ids.bin    int32 (num_images,): frames of one video have one number

A sample is a frame, or a window of frames that never crosses a segment. Folders named after splits, such as
`train_v1.1` and `val_v1.1`, are splits.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tokenstore.errors import SourceError
from tokenstore.sources.base import CodeSource, SourceColumn
from tokenstore.sources.code_values import LARGEST_CODE, check_shape
from tokenstore.sources.files import json_object
from tokenstore.sources.folders import folders_in
from tokenstore.sources.further import missing_field, requested_fields
from tokenstore.sources.layouts.rows import ArrayRows, LayoutSplit, grid_of, whole_file_array
from tokenstore.sources.layouts.windows import WindowColumn, WindowRows, Windows
from tokenstore.sources.npy_files import StoredArray
from tokenstore.sources.registry import SourceKind
from tokenstore.sources.split_names import DEFAULT_SPLIT, in_usual_order, split_of_file

_METADATA, _CODES, _SEGMENTS = "metadata.json", "video.bin", "segment_ids.bin"
_SEGMENT_COLUMN = "segment"
_MOST_METADATA_NBYTES = 2**20
_MOST_SIDE = 4096


def open_world_model(
    location: str | Path,
    *,
    window: int | None = None,
    stride: int | None = None,
    columns: Sequence[str] | None = None,
) -> CodeSource:
    """Open a local folder with `video.bin`, or one of such folders that are named after splits.

    A sample is one frame (s, s), or a window of `window` frames (T, s, s), `stride` frames apart, that never
    crosses a segment. The further column `segment` is the segment's number, of each frame of a window.

    Raises SourceError for metadata that cannot be read, and for files of other lengths than they say.
    """
    root = Path(location)
    fields = requested_fields(columns, str(location))
    for field in fields.values():
        if field != _SEGMENT_COLUMN:
            raise missing_field(str(location), field, (_SEGMENT_COLUMN,))
    splits: dict[str, LayoutSplit] = {}
    further: dict[str, dict[str, SourceColumn]] = {}
    notes, sizes = [], {}
    for split, folder in _folders(root).items():
        facts = _facts(folder / _METADATA)
        codes, segments = _codes(folder, facts), _segments(folder, facts)
        ids = segments.whole(segments.nbytes)
        cuts = np.flatnonzero(np.diff(ids)) + 1
        windows = Windows.of(np.diff(np.concatenate(([0], cuts, [len(ids)]))), window, stride, str(folder))
        rows = WindowRows(ArrayRows(folder.name, codes), windows, window is None)
        splits[split] = LayoutSplit(rows)
        column = WindowColumn(ArrayRows(folder.name, segments), windows, window is None, np.dtype(np.int32))
        further[split] = dict.fromkeys(fields, column)
        sizes[split] = facts.get("vocab_size")
        if windows.unused:
            notes.append(f"split {split}: {windows.unused} frames at ends of segments are in no window")
    return CodeSource(
        kind="1x",
        location=str(location),
        splits=splits,
        grid=grid_of({split: of_split.stored for split, of_split in splits.items()}, str(location)),
        codebook_sizes=_codebook_sizes(sizes, str(location)),
        notes=tuple(notes),
        further=further if fields else {},
    )


def _folders(root: Path) -> dict[str, Path]:
    if _is_one(root):
        return {split_of_file(root.resolve().name) or DEFAULT_SPLIT: root}
    below: dict[str, Path] = {}
    for folder in filter(_is_one, folders_in(root)) if root.is_dir() else ():
        split = split_of_file(folder.name)
        if split is None or split in below:
            raise SourceError(
                f"{root}: expected folders named after splits, such as train_v1.1, found {folder.name!r}"
                + (f" and {below[split].name!r}" if split in below else "")
            )
        below[split] = folder
    if not below:
        raise SourceError(f"{root}: expected {_CODES}, {_SEGMENTS} and {_METADATA}, found none")
    return {split: below[split] for split in in_usual_order(below)}


def _facts(path: Path) -> dict[str, Any]:
    what = "metadata with num_images and s"
    facts = json_object(path, _MOST_METADATA_NBYTES, what)
    for name, most in (("num_images", 2**48), ("s", _MOST_SIDE)):
        if type(facts.get(name)) is not int or not 0 < facts[name] <= most:
            raise SourceError(f"{path}: expected {what}: {f'{name} is {facts.get(name)!r}'[:200]}")
    return facts


def _codes(folder: Path, facts: dict[str, Any]) -> StoredArray:
    path = folder / _CODES
    name = facts.get("token_dtype", facts.get("dtype", "uint32"))
    if not isinstance(name, str) or name not in ("uint8", "uint16", "uint32", "uint64", "int32", "int64"):
        raise SourceError(
            f"{folder / _METADATA}: expected token_dtype as a type of whole numbers, found {name!r}"
        )
    shape = (facts["num_images"], facts["s"], facts["s"])
    codes = whole_file_array(path, np.dtype(name).newbyteorder("<"), shape)
    check_shape(codes.dtype, codes.shape, codes.where)
    return codes


def _segments(folder: Path, facts: dict[str, Any]) -> StoredArray:
    return whole_file_array(folder / _SEGMENTS, np.dtype("<i4"), (facts["num_images"],))


def _codebook_sizes(sizes: dict[str, Any], where: str) -> tuple[int, ...] | None:
    size = next((size for size in sizes.values() if size is not None), None)
    if size is None:
        return None
    if type(size) is not int or not 1 <= size <= LARGEST_CODE or any(each != size for each in sizes.values()):
        raise SourceError(f"{where}: expected one vocab_size, found {list(sizes.values())!r}"[:300])
    return (size,)


def _is_one(folder: Path) -> bool:
    return all((folder / name).is_file() for name in (_METADATA, _CODES))


def _holds(folder: Path) -> bool:
    return _is_one(folder) or any(map(_is_one, folders_in(folder)))


SOURCE = SourceKind(
    open=open_world_model,
    holds=_holds,
    looked_for=f"1X world model data ({_CODES})",
    options=frozenset({"window", "stride", "columns"}),
)
"""The kind `1x`."""
