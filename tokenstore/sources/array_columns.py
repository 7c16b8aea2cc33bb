"""Further columns in `.npy` and `.npz` files: arrays of numbers or texts, a row a sample; and soft labels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from tokenstore.codecs import TEXT, Column
from tokenstore.codecs.soft_labels import SoftLabels, softmax
from tokenstore.errors import CodecError, Parameter, SourceError
from tokenstore.sources.arrow_values import MOST_VALUES
from tokenstore.sources.base import SourceColumn
from tokenstore.sources.names import check_range, digest
from tokenstore.sources.npy_files import StoredArray, check_characters, open_npy
from tokenstore.sources.split_names import split_of_file

__all__ = ["SOFT_LABELS", "array_column", "soft_label_columns"]

SOFT_LABELS = "soft_labels"
"""The name of the column of soft labels."""
_READ_ROWS = 4096
_TOLERANCE = 1e-3
"""The difference from 1 that the sum of a sample's probabilities may have."""


@dataclass(frozen=True)
class ArrayColumn(SourceColumn):
    """The rows of an array in a file: numbers, or texts."""

    kind: Column
    stored: StoredArray

    @property
    @override
    def column(self) -> Column:
        return self.kind

    @override
    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        check_range(start, stop, len(self.stored))
        rows = self.stored.rows(start, stop)
        if stop == len(self.stored):
            self.stored.close()
        if not self.kind.is_ragged:
            return rows
        if rows.dtype.kind == "U":
            check_characters(rows, self.stored.where)
        texts: npt.NDArray[Any] = np.empty(len(rows), object)
        for place, text in enumerate(rows.tolist()):
            try:
                texts[place] = text.decode() if isinstance(text, bytes) else text
            except UnicodeDecodeError as error:
                raise SourceError(f"{self.stored.where}: row {start + place}: no text: {error}") from error
        return texts

    @override
    def fingerprint(self) -> str:
        return self.stored.fingerprint()


def array_column(stored: StoredArray, samples: int) -> ArrayColumn:
    """Return the column of an array; raise SourceError for one that is no column of so many samples."""
    kind, shape = stored.dtype.kind, stored.shape
    is_text = kind in "US" and len(shape) == 1
    is_number = kind in "biuf" and stored.dtype.itemsize <= 8 and 0 < math.prod(shape[1:]) <= MOST_VALUES
    if len(stored) != samples or not shape or not (is_text or is_number):
        raise SourceError(
            f"{stored.where}: expected numbers or texts, one row for each of {samples} samples, found "
            f"{stored.dtype} {shape}"
        )
    return ArrayColumn(TEXT if is_text else Column(stored.dtype.newbyteorder("="), shape[1:]), stored)


@dataclass(frozen=True)
class SoftLabelColumn(SourceColumn):
    """The soft labels in an array (N, classes) of probabilities or logits; the `top` classes are kept."""

    stored: StoredArray
    form: SoftLabels
    top: int
    are_logits: bool

    @property
    @override
    def column(self) -> Column:
        return Column(np.dtype(np.uint16), (self.top, 2), self.form)

    @override
    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        pairs: npt.NDArray[np.uint16] = np.empty((stop - start, self.top, 2), np.uint16)
        for first in range(start, stop, _READ_ROWS):
            last = min(first + _READ_ROWS, stop)
            rows = self.stored.rows(first, last).astype(np.float64)
            wrong = ~np.isfinite(rows).all(axis=1)
            if not self.are_logits:
                wrong |= ~_are_probabilities(rows)
            if wrong.any():
                what = "finite logits" if self.are_logits else "probabilities that sum to 1"
                raise SourceError(f"{self.stored.where}: row {first + int(wrong.argmax())}: expected {what}")
            rows = softmax(rows) if self.are_logits else rows / rows.sum(axis=1, keepdims=True)
            pairs[first - start : last - start] = self.form.quantised(rows, self.top)
        return pairs

    @override
    def fingerprint(self) -> str:
        return digest(self.stored.fingerprint(), self.top, str(self.are_logits))


def soft_label_columns(
    location: str | Path, samples: Mapping[str, int], top: int
) -> dict[str, SoftLabelColumn]:
    """Return the soft labels of each split, which has so many samples, in a file or in a folder of files.

    A file (N, classes) is that of a source of one split; a folder has a file for each split that has some,
    such as `train.npy`. Rows are probabilities if those first in the file lie between 0 and 1, and else
    logits. Raises SourceError for files that do not fit.
    """
    parameter, path = Parameter("soft_labels", str(location)), Path(location)
    if path.is_dir():
        files = _files_of_splits(path, samples)
    else:
        files = dict.fromkeys(samples, path) if len(samples) == 1 else {}
    if not files:
        raise SourceError(
            f"{parameter}: expected a file for a source of one split, or a folder with a file for a split, "
            f"such as {next(iter(samples))}.npy, of the splits {', '.join(samples)}",
            parameters=[parameter],
        )
    return {split: _soft_labels(file, samples[split], top) for split, file in files.items()}


def _files_of_splits(folder: Path, splits: Iterable[str]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for file in sorted(folder.glob("*.npy")):
        split = split_of_file(file.name)
        if split is None or split not in splits:
            continue
        if split in files:
            raise SourceError(
                f"{folder}: {files[split].name} and {file.name} are both of split {split}; keep one"
            )
        files[split] = file
    return files


def _soft_labels(path: Path, samples: int, top: int) -> SoftLabelColumn:
    stored = open_npy(path)
    if stored.dtype.kind != "f" or len(stored.shape) != 2 or len(stored) != samples or not stored.shape[1]:
        raise SourceError(
            f"{path}: expected floats ({samples}, classes), one row a sample, found {stored.dtype} "
            f"{stored.shape}"
        )
    named = Parameter("soft_top")
    if top < 1:
        raise SourceError(f"{named}: expected 1 or more, found {top}", parameters=[named])
    try:
        form = SoftLabels(stored.shape[1])
    except CodecError as error:
        raise SourceError(f"{path}: {error}") from error
    first = stored.rows(0, min(samples, _READ_ROWS)).astype(np.float64)
    are_logits = bool(((first < 0) | (first > 1 + _TOLERANCE)).any())  # of a bad row, read says so
    return SoftLabelColumn(stored, form, min(top, form.classes), are_logits)


def _are_probabilities(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    with np.errstate(invalid="ignore"):
        sums: npt.NDArray[np.bool_] = np.abs(rows.sum(axis=1) - 1) <= _TOLERANCE
        return sums & (rows >= 0).all(axis=1)
