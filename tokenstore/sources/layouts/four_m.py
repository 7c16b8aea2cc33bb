"""The source of 4M's token data: a folder for each modality, with files or tar files of the same names.

    ROOT/{split}/{modality}/{class}/{id}.npy        integers (V, L): V crops, row by row
    ROOT/{split}/crop_settings/{class}/{id}.npy     (V, 5): top, left, height, width, flip of each crop
    ROOT/{split}/{modality}/shard-00000.tar         or the same as members of tar files, `{id}.npy`

One modality becomes the tokens of a store, and the crops its views with the column `view_boxes`; others are
further columns. Splits are optional, and so are classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from typing_extensions import override

from tokenstore.codecs import Column, Views
from tokenstore.codecs.views import MAX_VIEWS, box_problem
from tokenstore.errors import Parameter, SourceError
from tokenstore.sources.base import CodeSource, Labels, SourceColumn
from tokenstore.sources.code_values import check_shape
from tokenstore.sources.folders import folders_in
from tokenstore.sources.further import missing_field, not_used, requested_fields
from tokenstore.sources.labels import label_splits
from tokenstore.sources.layouts.modalities import Modality, class_texts, open_modality
from tokenstore.sources.layouts.rows import CodeRows, LayoutSplit, grid_of
from tokenstore.sources.listings import SavedListings
from tokenstore.sources.names import digest, printable_names, sliced
from tokenstore.sources.registry import SourceKind
from tokenstore.sources.split_names import DEFAULT_SPLIT, group_folders, in_usual_order, split_of_folder
from tokenstore.texts import shortened

_CROPS, _BOXES = "crop_settings", "view_boxes"
_TOKENISED = "tok_"
_RGB = ("tok_rgb", "rgb")
_BOX = 5


@dataclass(frozen=True)
class ModalityRows(CodeRows):
    """The codes of one modality: (V, *grid) a sample, or the grid alone of one crop."""

    stored: Modality
    sample: tuple[int, ...]

    @property
    @override
    def where(self) -> str:
        return self.stored.where

    @property
    @override
    def grid(self) -> tuple[int, ...]:
        return self.sample

    @override
    def __len__(self) -> int:
        return len(self.stored)

    @override
    def rows(self, start: int, stop: int) -> npt.NDArray[np.generic]:
        return self.stored.read(start, stop).reshape(stop - start, *self.sample)

    @override
    def names(self, start: int, stop: int) -> pa.Array:
        return printable_names(sliced(self.stored.keys, start, stop))

    @override
    def fingerprint(self) -> str:
        return digest(self.stored.fingerprint(), repr(self.sample))


@dataclass(frozen=True)
class ModalityColumn(SourceColumn):
    """The values of another modality, of the shape that its files have."""

    stored: Modality
    kind: Column
    are_boxes: bool = False

    @property
    @override
    def column(self) -> Column:
        return self.kind

    @override
    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        values = self.stored.read(start, stop)
        if self.are_boxes:
            problem = None if np.array_equal(values, np.rint(values)) else "expected whole pixels"
            problem = problem or box_problem(np.rint(values).astype(np.int64).reshape(-1, _BOX))
            if problem is not None:
                raise SourceError(f"{self.stored.where}: samples {start} to {stop - 1}: {problem}")
        return values.astype(self.kind.dtype, copy=False)

    @override
    def fingerprint(self) -> str:
        return digest(self.stored.fingerprint(), str(self.kind))


def open_four_m(
    location: str | Path,
    *,
    token_column: str | None = None,
    columns: Sequence[str] | None = None,
    listings: SavedListings | None = None,
) -> CodeSource:
    """Open the tokens of one modality in a local folder of modalities, or of splits with such folders.

    `token_column` is the folder of the modality, by default the only one, or that of `tok_rgb`. `columns` are
    folders of further modalities, which must have the same samples. The crops in `crop_settings` become the
    column `view_boxes`, if there are several. Listings of tar files are taken from `listings`, and saved.

    Raises SourceError for folders that are not there, for samples that some modality lacks, and for files of
    other shapes than the first one.
    """
    root, fields = Path(location).absolute(), requested_fields(columns, str(location))
    folders = _split_folders(root)
    first = next(iter(folders.values()))
    name = _chosen(first, token_column)
    opened = {split: _open_split(folder, name, fields, listings) for split, folder in folders.items()}
    labels, class_names = _labels({split: one.tokens.keys for split, one in opened.items()}, str(location))
    splits = {
        split: LayoutSplit(ModalityRows(one.tokens, one.sample), labels.get(split))
        for split, one in opened.items()
    }
    sample = grid_of({split: each.stored for split, each in splits.items()}, str(location))
    count = next(iter(opened.values())).tokens.kind.shape[0]
    notes: list[str] = []
    if count > 1 and not all(_BOXES in one.further for one in opened.values()):
        notes.append(f"samples have {count} views of unknown boxes: there is no folder {_CROPS}")
    rest = [each for each in _modalities(first) if each not in (name, _CROPS, *fields.values())]
    notes += not_used("modalities", rest)
    return CodeSource(
        kind="4m",
        location=str(location),
        splits=splits,
        grid=sample if count == 1 else sample[1:],
        class_names=class_names,
        notes=tuple(notes),
        further={split: one.further for split, one in opened.items() if one.further},
        views=None if count == 1 else Views(count),
    )


@dataclass(frozen=True)
class _Opened:
    """The tokens of one split, the shape of a sample, and its further columns."""

    tokens: Modality
    sample: tuple[int, ...]
    further: dict[str, SourceColumn]


def _open_split(
    folder: Path, name: str, fields: Mapping[str, str], listings: SavedListings | None
) -> _Opened:
    tokens = _modality(folder, name, listings)
    check_shape(tokens.kind.dtype, (1, *tokens.kind.shape), tokens.where)
    if len(tokens.kind.shape) != 2 or tokens.kind.shape[0] > MAX_VIEWS:
        raise SourceError(
            f"{tokens.where}: expected codes (V, L) of up to {MAX_VIEWS} crops, found {tokens.kind.shape}"
        )
    further: dict[str, SourceColumn] = {
        column: _column(_aligned(_modality(folder, field, listings), tokens))
        for column, field in fields.items()
    }
    crops, length = tokens.kind.shape
    if crops > 1 and (folder / _CROPS).is_dir() and _BOXES not in fields:
        further[_BOXES] = _boxes(_aligned(_modality(folder, _CROPS, listings), tokens))
    side = math.isqrt(length)
    grid = (side, side) if side**2 == length > 1 else (length,)
    return _Opened(tokens, grid if crops == 1 else (crops, *grid), further)


def _split_folders(root: Path) -> dict[str, Path]:
    """Return the folder of modalities of each split."""
    if not root.is_dir():
        raise SourceError(f"{root}: expected a folder of modalities")
    names = _modalities(root)
    named = {name for name in names if split_of_folder(name) is not None}
    if named:
        grouped = group_folders(sorted(named), str(root))
        assert grouped is not None
        return {split: root / grouped[split] for split in in_usual_order(grouped)}
    return {split_of_folder(root.resolve().name) or DEFAULT_SPLIT: root}


def _modalities(folder: Path) -> list[str]:
    return [path.name for path in folders_in(folder)]


def _chosen(folder: Path, given: str | None) -> str:
    """Return the folder of the modality that becomes the tokens."""
    names = [name for name in _modalities(folder) if name != _CROPS]
    parameter = Parameter("token_column", given)
    fitting = [name for name in names if name == given] if given is not None else names
    if given is None and len(names) > 1:
        tokenised = [name for name in names if name.startswith(_TOKENISED)]
        fitting = [name for name in names if name.startswith(_RGB[0])] or tokenised
        fitting = fitting or [name for name in names if name.startswith(_RGB[1])]
    if len(fitting) == 1:
        return fitting[0]
    raise SourceError(
        f"{folder}: {parameter}: expected one folder of a modality's tokens, found "
        f"{shortened(fitting or names, 20) or 'none'}; say which",
        parameters=[parameter],
    )


def _modality(folder: Path, name: str, listings: SavedListings | None) -> Modality:
    path = folder / name
    if not path.is_dir() or path.parent != folder or name in (".", ".."):  # never another folder's
        raise missing_field(str(folder), name, _modalities(folder))
    return open_modality(path, listings)


def _aligned(other: Modality, tokens: Modality) -> Modality:
    """Return a modality that has the samples of the tokens; raise SourceError for one that has not."""
    if not other.keys.equals(tokens.keys):
        have, need = set(other.keys.to_pylist()), tokens.keys.to_pylist()
        lacking = next((key for key in need if key not in have), None)
        what = "has other samples" if lacking is None else f"has no sample {lacking.decode()!r}"
        raise SourceError(f"{other.where}: {what}; expected those of {tokens.where}")
    return other


def _column(stored: Modality) -> ModalityColumn:
    kind = stored.kind
    if kind.dtype.kind not in "biuf" or not all(kind.shape):
        raise SourceError(f"{stored.where}: expected numbers, found {kind.dtype} {kind.shape}")
    return ModalityColumn(stored, Column(kind.dtype.newbyteorder("="), kind.shape))


def _boxes(stored: Modality) -> ModalityColumn:
    kind = stored.kind
    if kind.dtype.kind not in "iuf" or len(kind.shape) != 2 or kind.shape[1] != _BOX:
        raise SourceError(
            f"{stored.where}: expected top, left, height, width and flip of each crop, found {kind.dtype} "
            f"{kind.shape}"
        )
    return ModalityColumn(stored, Column(np.dtype(np.int32), kind.shape), are_boxes=True)


def _labels(
    keys: Mapping[str, pa.ChunkedArray], where: str
) -> tuple[dict[str, Labels], tuple[str, ...] | None]:
    """Return the labels of samples that lie in class folders, and the names of the classes."""
    texts = {split: text for split, each in keys.items() if (text := class_texts(each)) is not None}
    return label_splits(texts, where, may_be_numbers=False) if texts else ({}, None)


def _is_one(folder: Path) -> bool:
    names = _modalities(folder)
    return _CROPS in names or any(name.startswith(_TOKENISED) for name in names)


def _holds(folder: Path) -> bool:
    below = [folder / name for name in _modalities(folder) if split_of_folder(name) is not None]
    return any(_is_one(each) for each in (folder, *below))


SOURCE = SourceKind(
    open=open_four_m,
    holds=_holds,
    looked_for=f"4M modalities ({_TOKENISED}rgb/, {_CROPS}/)",
    options=frozenset({"token_column", "columns", "listings"}),
)
"""The kind `4m`."""
