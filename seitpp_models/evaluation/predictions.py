"""The predictions of classifiers and segmenters: figures by class, confusions, and files of them."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.lib.format as npy_format
import numpy.typing as npt
import torch
from torch import Tensor

from tokenstore.errors import ArgumentError, Parameter
from tokenstore.files import whole_file, write_file

__all__ = [
    "ClassFigures",
    "PixelCounts",
    "PixelLog",
    "PredictionLog",
    "Predictions",
    "check_file",
    "write_confusion",
    "write_predictions",
]

Integers = npt.NDArray[np.int64]

_ENDINGS = {"confusion": (".csv",), "predictions": (".csv", ".parquet", ".npy")}
"""The endings of the files that an evaluation writes, by their parameters."""


@dataclass(frozen=True)
class ClassFigures:
    """The figures of one class; those that divide by zero are NaN."""

    label: int
    name: str | None
    samples: int
    """The number of samples of the class; of a segmenter, pixels."""
    predicted: int
    """The number of samples or pixels that the network gives this class."""
    right: int
    """The number of samples or pixels of the class that the network gives this class."""

    @property
    def recall(self) -> float:
        """The share of the class's samples that are right: the class's top-1."""
        return self.right / self.samples if self.samples else float("nan")

    @property
    def precision(self) -> float:
        """The share of right predictions among those of this class."""
        return self.right / self.predicted if self.predicted else float("nan")

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall."""
        both = self.samples + self.predicted
        return 2 * self.right / both if both else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and the shares by name."""
        return {**vars(self), "recall": self.recall, "precision": self.precision, "f1": self.f1}


@dataclass(frozen=True)
class Predictions:
    """The predictions of N samples by a classifier of K classes; labels are the network's."""

    rows: Integers
    """The positions (N,) of the samples in their split."""
    labels: Integers
    """The samples' own labels (N,)."""
    predicted: Integers
    """The labels with the largest logits (N,)."""
    probabilities: npt.NDArray[np.float32]
    """The softmax of those logits (N,)."""
    classes: int
    """The number of classes, K."""

    def confusion(self) -> Integers:
        """Return the numbers of samples (K, K) by their label, and by the label that is predicted."""
        pairs = np.bincount(self.labels * self.classes + self.predicted, minlength=self.classes**2)
        return pairs.reshape(self.classes, self.classes).astype(np.int64)

    def by_class(self, names: Sequence[str] | None = None) -> tuple[ClassFigures, ...]:
        """Return the figures of each class, in the order of labels; `names` are those of the classes."""
        right = self.labels[self.labels == self.predicted]
        counts = (
            np.bincount(labels, minlength=self.classes) for labels in (self.labels, self.predicted, right)
        )
        return _by_class(counts, names)

    def confused(self, most: int) -> list[tuple[int, int, int]]:
        """Return up to `most` pairs that are confused most often: label, predicted label, samples."""
        pairs = Counter(zip(self.labels.tolist(), self.predicted.tolist(), strict=True))
        wrong = [(*pair, count) for pair, count in pairs.most_common() if pair[0] != pair[1]]
        return wrong[:most]


@dataclass(frozen=True)
class PixelCounts:
    """The pixels of a segmenter of K classes by their label, and by the label that is predicted."""

    table: Integers
    """The numbers of pixels (K, K)."""

    def confusion(self) -> Integers:
        """Return the numbers of pixels (K, K) by their label, and by the label that is predicted."""
        return self.table

    def by_class(self, names: Sequence[str] | None = None) -> tuple[ClassFigures, ...]:
        """Return the figures of each class, in the order of labels; `names` are those of the classes."""
        return _by_class((self.table.sum(1), self.table.sum(0), self.table.diagonal()), names)

    def confused(self, most: int) -> list[tuple[int, int, int]]:
        """Return up to `most` pairs that are confused most often: label, predicted label, pixels."""
        wrong = self.table - np.diag(self.table.diagonal())
        order = np.argsort(-wrong, axis=None, kind="stable")[:most]
        pairs = [divmod(place, len(wrong)) for place in order.tolist()]
        return [(*pair, int(wrong[pair])) for pair in pairs if wrong[pair]]


def _by_class(counts: Iterable[Integers], names: Sequence[str] | None) -> tuple[ClassFigures, ...]:
    """Return the figures of classes by their samples, predictions and right predictions, (K,) each."""
    return tuple(
        ClassFigures(label, None if names is None or label >= len(names) else names[label], *of_class)
        for label, of_class in enumerate(zip(*(each.tolist() for each in counts), strict=True))
    )


class PredictionLog:
    """The predictions of a classifier, gathered batch by batch."""

    def __init__(self) -> None:
        self._parts: list[tuple[Tensor, Tensor, Tensor]] = []
        self._classes = 0

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: logits (B, K) float and the network's labels (B,) int64."""
        probability, predicted = logits.softmax(1).max(1)
        self._parts.append((labels.cpu(), predicted.cpu(), probability.float().cpu()))
        self._classes = logits.shape[1]

    def finish(self, rows: Integers) -> Predictions:
        """Return the predictions of the samples `rows` (N,), in the order of the batches."""
        labels, predicted, probabilities = (
            torch.cat(parts).numpy() for parts in zip(*self._parts, strict=True)
        )
        return Predictions(rows, labels, predicted, probabilities, self._classes)


class PixelLog:
    """The confusions of a segmenter, and the file of its label maps, if one is asked for."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._maps: _MapFile | None = None
        self.table = np.zeros((0, 0), np.int64)
        """The numbers of pixels (K, K) by their label, and by the label that is predicted."""

    @contextmanager
    def writing(self, samples: int, classes: int) -> Iterator[None]:
        """Write the maps that are added, those of so many samples, to the file: whole, or not at all."""
        if self._path is None:
            yield
            return
        with whole_file(self._path) as file:
            self._maps = _MapFile(file, samples, classes)
            yield

    def add(self, maps: Tensor) -> None:
        """Add a batch of predicted label maps (B, h, w)."""
        if self._maps is not None:
            self._maps.add(maps)

    def finish(self, rows: Integers) -> PixelCounts:
        """Return the pixels that were counted; `rows` are the samples, which do not matter."""
        return PixelCounts(self.table)


class _MapFile:
    """The label maps (N, h, w) of N samples in a `.npy` file that is being written."""

    def __init__(self, file: IO[bytes], samples: int, classes: int) -> None:
        self._file, self._samples = file, samples
        self._dtype = np.min_scalar_type(classes - 1)
        self._is_begun = False

    def add(self, maps: Tensor) -> None:
        values = maps.cpu().numpy().astype(self._dtype)
        if not self._is_begun:
            header = {
                "descr": npy_format.dtype_to_descr(self._dtype),
                "fortran_order": False,
                "shape": (self._samples, *values.shape[1:]),
            }
            npy_format.write_array_header_1_0(self._file, header)
            self._is_begun = True
        self._file.write(values.tobytes())


def check_file(parameter: str, path: Path) -> None:
    """Raise ArgumentError for a file of another ending, or in a folder that does not exist."""
    named = Parameter(parameter, str(path))
    endings = _ENDINGS[parameter]
    if path.suffix.lower() not in endings or not path.absolute().parent.is_dir():
        raise ArgumentError(
            f"{named}: expected a name ending in {' or '.join(endings)}, in a folder that exists",
            parameters=[named],
        )


def write_confusion(path: Path, table: Integers, names: Sequence[str] | None) -> None:
    """Write numbers of samples (K, K) as CSV: a line for each label, a column for each predicted label."""
    import csv

    heads = list(map(str, range(len(table)))) if names is None else list(names)
    text = io.StringIO()
    lines = csv.writer(text)
    lines.writerow(["label", *heads])
    lines.writerows([head, *counts] for head, counts in zip(heads, table.tolist(), strict=True))
    write_file(path, text.getvalue().encode())


def write_predictions(
    path: Path,
    predictions: Mapping[Any, Predictions],
    sources: Sequence[str],
    names: Sequence[str] | None,
) -> None:
    """Write a row for each sample and condition, as CSV or Parquet by the ending of `path`.

    `sources` are the names of the split's samples, `names` those of the classes.
    """
    import pyarrow as pa
    import pyarrow.csv as pa_csv
    import pyarrow.parquet as pq

    parts = []
    for condition, of_samples in predictions.items():
        columns: dict[str, Any] = {
            "row": of_samples.rows,
            "source": [sources[row] for row in of_samples.rows],
        }
        if len(predictions) > 1:
            columns["corruption"] = [condition.corruption] * len(of_samples.rows)
            columns["severity"] = [condition.severity] * len(of_samples.rows)
        columns |= {"label": of_samples.labels, "predicted": of_samples.predicted}
        if names is not None:
            columns |= {
                "class": [names[label] for label in of_samples.labels],
                "predicted_class": [names[label] for label in of_samples.predicted],
            }
        parts.append(pa.table(columns | {"probability": of_samples.probabilities}))
    table, file = pa.concat_tables(parts, promote_options="permissive"), io.BytesIO()
    if path.suffix.lower() == ".csv":
        pa_csv.write_csv(table, file)
    else:
        pq.write_table(table, file)
    write_file(path, file.getvalue())
