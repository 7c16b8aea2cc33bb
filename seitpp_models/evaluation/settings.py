"""The settings of an evaluation: those of images, and those of what is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypedDict

from seitpp_models.errors import ModelError
from seitpp_models.evaluation.measures import Measure, measure_for
from seitpp_models.evaluation.predictions import (
    PixelLog,
    PredictionLog,
    Predictions,
    check_file,
    write_confusion,
    write_predictions,
)
from seitpp_models.evaluation.results import Evaluation
from seitpp_models.networks.masking import MaskRatio
from seitpp_models.networks.shape import Output
from seitpp_models.weights.files import TrainedModel
from tokenstore.errors import ArgumentError, Parameter, did_you_mean
from tokenstore.sources.options import Resize, SourceOptions

__all__ = [
    "EvaluationSettings",
    "ImageSettings",
    "MeasureSettings",
    "check_choices",
    "idle",
    "sorted_settings",
]

_MOST_CONFUSED = 10_000
_PREDICTION_FILES: dict[Output, tuple[str, ...]] = {"class": (".csv", ".parquet"), "label map": (".npy",)}
"""The endings of files of predictions, by the thing that a network's logits are of."""


class EvaluationSettings(TypedDict, total=False):
    """The settings of `evaluate`, all of which may be left out."""

    crop: int | None
    """The side of the central codes that the network sees; by default those that it was built for."""
    all_classes: bool
    """True to keep the logits of classes that the data does not have.

    By default they are left out, as is usual for ImageNet-R with 200 of 1,000 classes. Classes are matched by
    their names.
    """
    ignore_index: int | None
    """The label of pixels that do not count; by default the store's."""
    mask_ratio: float | None
    """The share of the patches that a masked-token model predicts; by default 0.45."""
    labels: str | Path | None
    """A CSV file of paths and labels, for a folder of images; by default folders are classes."""
    image_column: str | None
    """The column of images of Parquet files, or of paths in the file `labels`."""
    label_column: str | None
    """The column of labels of Parquet files, or of the file `labels`."""
    class_names: str | Path | Sequence[str] | None
    """The names of the classes of images by label, where their source has none: a list, or a text file."""
    allow_outside_paths: bool
    """True to read images that a Parquet file names by paths that lead out of its folder."""
    source_storage_options: Mapping[str, Any] | None
    """The options of fsspec for images at a URL."""
    tokenizer: str | None
    """The tokenizer of images; by default the one that the network names."""
    image_size: int | None
    """The side in pixels of the square that an image becomes; by default that of the training images."""
    resize: Resize | None
    """The way an image becomes a square: squash, crop or pad; by default that of the training images."""
    corruptions: Sequence[str]
    """The names of corruptions after ImageNet-C, or "all", to evaluate under, too."""
    severities: Sequence[int]
    """The severities of corruptions, 1 to 5; by default each of them."""
    seed: int
    """The seed of noise and of masked patches."""
    average: bool
    """True to measure the average of the weights that a published checkpoint has beside them."""
    by_class: bool
    """True to keep predictions, for `Evaluation.by_class` and `.confusion`; a segmenter's are of pixels."""
    confusion: str | Path | None
    """The CSV file to write the numbers of samples, or pixels, by label and by predicted label to."""
    predictions: str | Path | None
    """The file to write predictions to: of a classifier a CSV or Parquet file of a row a sample, by its
    ending, and of a segmenter a .npy file of the label maps (N, h, w)."""


@dataclass(frozen=True)
class ImageSettings:
    """The settings that have an effect on images alone."""

    labels: str | Path | None = None
    image_column: str | None = None
    label_column: str | None = None
    class_names: str | Path | Sequence[str] | None = None
    allow_outside_paths: bool = False
    source_storage_options: Mapping[str, Any] | None = None
    tokenizer: str | None = None
    image_size: int | None = None
    resize: Resize | None = None
    corruptions: Sequence[str] = ()
    severities: Sequence[int] = ()

    @property
    def of_source(self) -> SourceOptions:
        """The options of opening the images."""
        return SourceOptions(
            labels=self.labels,
            image_column=self.image_column,
            label_column=self.label_column,
            class_names=self.class_names,
            allow_outside_paths=self.allow_outside_paths,
            source_storage_options=self.source_storage_options,
        )


@dataclass(frozen=True)
class MeasureSettings:
    """The settings of what is measured, on stores and on images."""

    crop: int | None = None
    all_classes: bool = False
    ignore_index: int | None = None
    mask_ratio: float | None = None
    seed: int = 0
    average: bool = False
    by_class: bool = False
    confusion: str | Path | None = None
    predictions: str | Path | None = None

    @property
    def keeps_predictions(self) -> bool:
        """True if predictions are asked for."""
        return bool(self.by_class or self.confusion or self.predictions)

    def kept_at(self, path: Path | None) -> MeasureSettings:
        """Return the same settings with predictions that are written to `path`, unless elsewhere already."""
        return self if path is None or self.predictions is not None else replace(self, predictions=path)

    def _log(self, trained: TrainedModel) -> PredictionLog | PixelLog | None:
        """Return a new log of a network's predictions; raise ArgumentError for a network that has none."""
        if not self.keeps_predictions:
            return None
        output = trained.shape.output
        if output not in _PREDICTION_FILES:
            asked = next(name for name in ("by_class", "confusion", "predictions") if getattr(self, name))
            raise idle(asked, "a classifier or a segmenter")
        path, endings = self.predictions and Path(self.predictions), _PREDICTION_FILES[output]
        if path and path.suffix.lower() not in endings:
            named = Parameter("predictions", str(path))
            raise ArgumentError(
                f"{named}: expected a name ending in {' or '.join(endings)} for such a network",
                parameters=[named],
            )
        return PixelLog(path or None) if output == "label map" else PredictionLog()

    def check_files(self) -> None:
        """Raise ArgumentError for files that cannot be written."""
        for name, path in (("confusion", self.confusion), ("predictions", self.predictions)):
            if path is not None:
                check_file(name, Path(path))

    def write(self, evaluation: Evaluation, sources: Callable[[], Sequence[str]]) -> None:
        """Write the files that are asked for; `sources` returns the names of the split's samples."""
        names = evaluation.class_names
        if self.confusion is not None:
            write_confusion(Path(self.confusion), evaluation.confusion, names)
        rows = {name: part for name, part in evaluation.predictions.items() if isinstance(part, Predictions)}
        if self.predictions is not None and rows:
            write_predictions(Path(self.predictions), rows, sources(), names)

    @property
    def sides(self) -> tuple[int, int] | None:
        """The sides of the part of the codes that the network sees, if `crop` is given."""
        return None if self.crop is None else (self.crop, self.crop)

    def measure(self, trained: TrainedModel) -> Measure:
        """Return the measure for a network; raises ArgumentError for a setting that has no effect on it."""
        parameters = {name: getattr(self, name) for name in ("all_classes", "ignore_index", "mask_ratio")}
        requested = {name for name, value in parameters.items() if value is not None and value is not False}
        parameters["mask_ratio"] = MaskRatio.mean if self.mask_ratio is None else self.mask_ratio
        log = self._log(trained)
        measure = measure_for(trained, {**parameters, "seed": self.seed, "log": log}, requested)
        if self.confusion is not None and trained.shape.classes > _MOST_CONFUSED:
            raise ModelError(
                f"expected up to {_MOST_CONFUSED:,} classes for a table of confusions, found more"
            )
        if self.crop is not None and not measure.any_grid:
            raise idle("crop", "a network that sees grids of several sizes")
        return measure


def sorted_settings(settings: EvaluationSettings) -> tuple[ImageSettings, MeasureSettings]:
    """Return the settings of images, and the others; raises TypeError for an unknown name."""
    names = {field.name for field in fields(ImageSettings)}
    of_images = {name: value for name, value in settings.items() if name in names}
    of_measure = {name: value for name, value in settings.items() if name not in names}
    return ImageSettings(**of_images), MeasureSettings(**of_measure)  # type: ignore[arg-type]


def check_choices(name: str, values: Sequence[Any], choices: Sequence[Any]) -> None:
    """Raise ArgumentError for a value that is none of the choices of a parameter."""
    for value in values:
        if value not in choices:
            parameter = Parameter(name, value)
            raise ArgumentError(
                f"{parameter}: expected one of {', '.join(map(str, choices))}"
                f"{did_you_mean(value, map(str, choices))}",
                parameters=[parameter],
            )


def idle(name: str, needed: str, *others: Parameter) -> ArgumentError:
    """Return the error that a parameter has no effect without what is `needed`."""
    parameter = Parameter(name)
    return ArgumentError(f"{parameter} goes with {needed}", parameters=[parameter, *others])
