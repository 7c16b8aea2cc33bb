"""Batches of samples as a caller gives them: checked, in one form, and as bytes for a resumed writer."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from tokenstore.codecs import TEXT, Column, column_form, list_column
from tokenstore.codecs.soft_labels import SoftLabels
from tokenstore.errors import ArgumentError, CodecError, Parameter
from tokenstore.format import LABELS, TOKENS

__all__ = [
    "Batch",
    "as_array",
    "as_column",
    "as_labels",
    "as_texts",
    "column_from_json",
    "column_of",
    "column_to_json",
    "declared_columns",
]

_MOST_LABEL = int(np.iinfo(np.int32).max)
_NAMES = ".names"
"""The name of the samples' names in a saved batch, which no column can have."""
_OWN = (TOKENS, LABELS, _NAMES)
_TOLERANCE = 1e-3
"""The difference from 1 that the sum of a sample's probabilities may have."""


@dataclass(frozen=True)
class Batch:
    """The neighbouring samples [start, start + n) of a split."""

    start: int
    codes: npt.NDArray[Any]
    """The codes (n, *grid), or (n, V, *grid) of V views."""
    labels: npt.NDArray[np.int32] | None
    names: npt.NDArray[Any] | None
    """The samples' own names (n,), texts; None for samples without."""
    columns: Mapping[str, npt.NDArray[Any]]
    """The further aligned arrays (n, ...) as they are stored, by name."""

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def stop(self) -> int:
        """The first sample behind the batch."""
        return self.start + len(self)

    def cut(self, count: int) -> tuple[Self, Self]:
        """Return the first `count` samples, and the others in memory of their own."""
        first = self._of({name: values[:count] for name, values in self._arrays().items()}, self.start)
        rest = {name: values[count:].copy() for name, values in self._arrays().items()}
        return first, self._of(rest, self.start + count)

    def joined(self, other: Self) -> Self:
        """Return the batch with the one that follows it."""
        theirs = other._arrays()
        both = {name: np.concatenate([values, theirs[name]]) for name, values in self._arrays().items()}
        return self._of(both, self.start)

    def to_bytes(self, kinds: Mapping[str, Column]) -> bytes:
        """Return the batch as a file, for `from_bytes`; `kinds` say what its columns hold."""
        ragged = {name: kind.codec for name, kind in kinds.items() if kind.is_ragged}
        if self.names is not None:
            ragged[_NAMES] = TEXT.codec
        arrays = {
            name: np.frombuffer(ragged[name].encode(values, len(values), 0), np.uint8)
            if name in ragged
            else values
            for name, values in self._arrays().items()
        }
        about = json.dumps({"start": self.start, "samples": len(self)}).encode()
        file = io.BytesIO()
        members = {f"values_{name}": values for name, values in arrays.items()}
        np.savez(file, allow_pickle=False, about=np.frombuffer(about, np.uint8), **members)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, kinds: Mapping[str, Column]) -> Self:
        """Return the batch of `to_bytes`."""
        values: dict[str, npt.NDArray[Any]] = {}
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            about = json.loads(arrays["about"].tobytes())
            for member in arrays:
                name = member.removeprefix("values_")
                kind = TEXT if name == _NAMES else kinds.get(name)
                if name == member:
                    continue
                values[name] = arrays[member]
                if kind is not None and kind.is_ragged:
                    out: npt.NDArray[Any] = np.empty(about["samples"], object)
                    kind.codec.decode(values[name], out)
                    values[name] = out
        return cls._of(values, about["start"])

    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        own = {TOKENS: self.codes, LABELS: self.labels, _NAMES: self.names}
        return {name: values for name, values in {**own, **self.columns}.items() if values is not None}

    @classmethod
    def _of(cls, arrays: dict[str, npt.NDArray[Any]], start: int) -> Self:
        columns = {name: values for name, values in arrays.items() if name not in _OWN}
        return cls(start, arrays[TOKENS], arrays.get(LABELS), arrays.get(_NAMES), columns)


def as_array(values: Any, where: str) -> npt.NDArray[Any]:
    """Return an array, a tensor of torch on any device, or a list of numbers as a numpy array.

    Raises ArgumentError for anything else.
    """
    try:
        array = np.asarray(values.detach().cpu().numpy() if hasattr(values, "detach") else values)
    except (TypeError, ValueError, OverflowError) as error:
        raise ArgumentError(
            f"{where}: expected an array of numbers, found {_named(values)}: {error}"
        ) from error
    if array.dtype.hasobject:
        raise ArgumentError(f"{where}: expected an array of numbers, found {_named(values)}")
    return array


def _named(values: Any) -> str:
    return f"{type(values).__name__} {str(values)[:60]!r}"


def as_labels(
    values: Any, samples: int, class_names: Sequence[str] | None, where: str
) -> npt.NDArray[np.int32]:
    """Return the labels (samples,) int32 that were given; raise ArgumentError for others."""
    labels = as_array(values, f"{where}: labels")
    if labels.dtype.kind not in "ui" or labels.shape != (samples,):
        raise ArgumentError(
            f"{where}: expected integer labels, one for each of {samples} samples, found {labels.dtype} "
            f"{labels.shape}"
        )
    most = _MOST_LABEL if class_names is None else len(class_names) - 1
    wrong = (labels < 0) | (labels > most)
    if wrong.any():
        place = int(np.argmax(wrong))
        classes = "" if class_names is None else f", as {len(class_names)} class names were given"
        raise ArgumentError(
            f"{where}: expected labels from 0 to {most}{classes}, found {labels[place]} at place {place} of "
            "the batch"
        )
    return labels.astype(np.int32)


def as_texts(values: Any, samples: int, where: str) -> npt.NDArray[Any]:
    """Return texts (samples,) as an array of `str`; raise ArgumentError for anything else."""
    texts: npt.NDArray[Any] = np.empty(samples, object)
    given = values.tolist() if isinstance(values, np.ndarray) else values
    if isinstance(given, str | bytes) or not isinstance(given, Sequence) or len(given) != samples:
        count = f"{len(given)} of them" if isinstance(given, Sequence) else _named(values)
        raise ArgumentError(f"{where}: expected {samples} texts, one a sample, found {count}")
    for place, text in enumerate(given):
        try:
            TEXT.codec.bytes_of(text)  # type: ignore[attr-defined]
        except CodecError as error:
            raise ArgumentError(f"{where}, at place {place} of the batch: {error}") from error
        texts[place] = str(text)
    return texts


def column_of(values: Any, where: str) -> Column:
    """Return the column that values (n, ...) are of, without knowing more.

    An array (n, *shape) or a list of numbers is a column of such arrays, a list of `str` one of texts, and a
    list of arrays one of lists of any length. Raises ArgumentError for values that no column holds.
    """
    if isinstance(values, Sequence) and not isinstance(values, str) and len(values):
        first = values[0]
        if isinstance(first, str):
            return TEXT
        if isinstance(first, np.ndarray | Sequence) or hasattr(first, "detach"):
            lists = [as_array(each, where) for each in values]
            filled = next((each for each in lists if each.size), lists[0])
            if filled.ndim:
                return _checked(list_column(filled.dtype.newbyteorder("="), filled.shape[1:]), where)
    if isinstance(values, np.ndarray) and values.dtype.kind in "UO" and values.ndim == 1:
        return TEXT
    array = as_array(values, where)
    if not array.ndim:
        raise ArgumentError(f"{where}: expected a value for each sample, found {_named(values)}")
    return _checked(Column(array.dtype.newbyteorder("="), array.shape[1:]), where)


def _checked(column: Column, where: str) -> Column:
    dtype = column.dtype
    if not column.is_ragged and (dtype.kind not in "biuf" or dtype.itemsize > 8 or 0 in column.shape):
        raise ArgumentError(
            f"{where}: expected numbers of up to 64 bits, texts, or lists of numbers, found {column}"
        )
    return column


def as_column(values: Any, column: Column, samples: int, where: str) -> npt.NDArray[Any]:
    """Return the values (samples, *shape) of a column as they are stored.

    A column of soft labels takes probabilities (samples, classes). Raises ArgumentError for values that do
    not fit.
    """
    if column == TEXT:
        return as_texts(values, samples, where)
    if column.is_ragged:
        return _as_lists(values, column, samples, where)
    array = as_array(values, where)
    if isinstance(column.form, SoftLabels):
        return _as_soft_labels(array, column.form, column.shape[0], samples, where)
    if array.shape != (samples, *column.shape) or not _fits(values, array, column.dtype):
        raise ArgumentError(
            f"{where}: expected {column.dtype} {(samples, *column.shape)}, found {array.dtype} {array.shape}"
        )
    return array.astype(column.dtype)


def _fits(values: Any, array: npt.NDArray[Any], dtype: np.dtype[Any]) -> bool:
    """Return whether values can be stored as a dtype: an array's safely, and a list's, which has no dtype."""
    if np.can_cast(array.dtype, dtype, "safe"):
        return True
    if not isinstance(values, list | tuple) or not np.can_cast(array.dtype, dtype, "unsafe"):
        return False
    kinds = (array.dtype.kind, dtype.kind)
    with np.errstate(over="ignore"):
        return kinds == ("f", "f") or (kinds[0] in "ui" and np.array_equal(array.astype(dtype), array))


def _as_lists(values: Any, column: Column, samples: int, where: str) -> npt.NDArray[Any]:
    form: Any = column.form
    if isinstance(values, str) or not hasattr(values, "__len__") or len(values) != samples:
        raise ArgumentError(f"{where}: expected {samples} lists, one a sample, found {_named(values)}")
    lists: npt.NDArray[Any] = np.empty(samples, object)
    for place, each in enumerate(values):
        array = as_array(each, f"{where}, at place {place} of the batch")
        if not array.size and array.ndim <= 1 + len(form.shape):
            array = np.empty((0, *form.shape), form.dtype)
        if array.ndim != 1 + len(form.shape) or not _fits(each, array, form.dtype):
            raise ArgumentError(
                f"{where}, at place {place} of the batch: expected a {column}, found {array.dtype} "
                f"{array.shape}"
            )
        lists[place] = array.astype(form.dtype)
        try:
            form.bytes_of(lists[place])
        except CodecError as error:
            raise ArgumentError(f"{where}, at place {place} of the batch: {error}") from error
    return lists


def _as_soft_labels(
    array: npt.NDArray[Any], form: SoftLabels, top: int, samples: int, where: str
) -> npt.NDArray[Any]:
    if array.dtype.kind != "f" or array.shape != (samples, form.classes):
        raise ArgumentError(
            f"{where}: expected probabilities {(samples, form.classes)}, found {array.dtype} {array.shape}"
        )
    rows = array.astype(np.float64)
    with np.errstate(invalid="ignore"):
        wrong = ~((np.abs(rows.sum(axis=1) - 1) <= _TOLERANCE) & (rows >= 0).all(axis=1))
    if wrong.any():
        raise ArgumentError(
            f"{where}: expected probabilities that sum to 1, found others at place {int(np.argmax(wrong))} "
            "of the batch"
        )
    return form.quantised(rows / rows.sum(axis=1, keepdims=True), top)


def declared_columns(kinds: Mapping[str, Any]) -> dict[str, Column]:
    """Return the columns that a caller declares: each a Column, `str` for texts, a dtype, or (dtype, shape).

    Raises ArgumentError for anything else.
    """
    return {name: _declared_column(kind, name) for name, kind in kinds.items()}


def _declared_column(kind: Any, name: str) -> Column:
    if isinstance(kind, Column):
        return kind
    if kind is str:
        return TEXT
    parameter = Parameter("columns")
    dtype, shape = kind if isinstance(kind, tuple) else (kind, ())
    try:
        column = Column(np.dtype(dtype), tuple(shape))
        return _checked(column, f"{parameter}: {name!r}")
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"{parameter}: {name!r}: expected a dtype, (dtype, shape), str or a Column, found {kind!r:.80}",
            parameters=[parameter],
        ) from error


def column_to_json(column: Column) -> dict[str, Any]:
    """Return a column as JSON values."""
    form = column.form
    about = None if form is None else [form.data_type, form.attributes]
    return {"dtype": column.dtype.str, "shape": list(column.shape), "form": about}


def column_from_json(values: Mapping[str, Any]) -> Column:
    """Return the column that `column_to_json` wrote."""
    form = None if values["form"] is None else column_form(*values["form"])
    return Column(np.dtype(values["dtype"]), tuple(values["shape"]), form)
