"""The figures of a classifier's predictions: how far probabilities can be trusted, and what is confused."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pa_csv

from seitpp_models.errors import ModelError
from seitpp_models.evaluation.predictions import Predictions
from tokenstore.parquet_pages import open_parquet

BINS = 15
"""The equal parts of probabilities in which calibration is measured."""
MOST_CONFUSED = 30
"""The pairs of confused classes that are listed."""
MOST_CLASSES = 200
"""The most classes of a confusion matrix that is drawn."""

_COLUMNS = ("label", "predicted", "probability")
_TYPES = {
    "label": pa.int64(),
    "predicted": pa.int64(),
    "probability": pa.float64(),
    "corruption": pa.string(),
}


@dataclass(frozen=True)
class Calibration:
    """The accuracy of predictions by their probability (Guo et al. 2017, https://arxiv.org/abs/1706.04599)."""

    confidence: list[float]
    """The mean probability in each bin that has predictions."""
    accuracy: list[float]
    """The share of right predictions in each."""
    samples: list[int]
    """The number of predictions in each."""

    @property
    def error(self) -> float:
        """The expected calibration error: the mean difference of both, by predictions."""
        both = np.array(self.confidence), np.array(self.accuracy)
        return float(np.average(abs(both[0] - both[1]), weights=self.samples))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and the error as JSON values."""
        return {**vars(self), "error": self.error}


@dataclass(frozen=True)
class PredictionFigures:
    """The figures of predictions on samples as they are."""

    samples: int
    top1: float
    calibration: Calibration
    confused: list[tuple[int, int, int]]
    """The pairs that are confused most often: label, predicted label, samples."""
    confusion: npt.NDArray[np.int64] | None
    """The numbers of samples (K, K) by label and by predicted label; None for many classes."""

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        return {
            "samples": self.samples,
            "top1": self.top1,
            "calibration": self.calibration.to_dict(),
            "confused": [
                dict(zip(("label", "predicted", "samples"), each, strict=True)) for each in self.confused
            ],
            "confusion": None if self.confusion is None else self.confusion.tolist(),
        }


def prediction_figures(path: Path, classes: int) -> PredictionFigures:
    """Return the figures of a file of predictions, CSV or Parquet; raises ModelError for any other file."""
    try:
        table = _table(path)
        if "corruption" in table.column_names:  # samples as they are have none
            table = table.filter(table["corruption"].is_null())
        label, predicted, probability = (table[name].to_numpy() for name in _COLUMNS)
        if (
            not len(label)
            or min(label.min(), predicted.min()) < 0
            or max(label.max(), predicted.max()) >= classes
        ):
            raise ValueError(f"expected labels of {classes} classes")
    except (pa.ArrowException, KeyError, ValueError, TypeError) as error:
        raise ModelError(f"{path}: expected predictions of a classifier: {error}") from error
    read = Predictions(np.arange(len(label)), label, predicted, probability, classes)
    right = label == predicted
    return PredictionFigures(
        len(label),
        float(right.mean()),
        calibration(probability, right),
        read.confused(MOST_CONFUSED),
        read.confusion() if classes <= MOST_CLASSES else None,
    )


def _table(path: Path) -> pa.Table:
    """Read the columns of a file of predictions, CSV or Parquet by its ending."""
    if path.suffix.lower() == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            names = next(csv.reader(file), [])
        # subtle: types that Arrow infers are those of the first rows, which have no corruption
        conversion = pa_csv.ConvertOptions(
            column_types=_TYPES, include_columns=_columns(names), strings_can_be_null=True
        )
        return pa_csv.read_csv(path, pa_csv.ReadOptions(use_threads=False), convert_options=conversion)
    with open_parquet(path) as pages:
        return pages.read(columns=_columns(pages.schema_arrow.names), use_threads=False)


def _columns(names: list[str]) -> list[str]:
    return [*_COLUMNS, *(["corruption"] if "corruption" in names else [])]


def calibration(probability: npt.NDArray[Any], right: npt.NDArray[np.bool_]) -> Calibration:
    """Return the calibration of predictions with probabilities (N,) of which some are right (N,)."""
    places = np.clip((probability * BINS).astype(np.int64), 0, BINS - 1)
    samples = np.bincount(places, minlength=BINS)
    used = samples > 0
    confidence = np.bincount(places, probability, BINS)[used] / samples[used]
    accuracy = np.bincount(places, right, BINS)[used] / samples[used]
    return Calibration(confidence.tolist(), accuracy.tolist(), samples[used].tolist())
