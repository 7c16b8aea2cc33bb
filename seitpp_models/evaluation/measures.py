"""The ways to measure a network on a store: one for each thing that a network's logits are of."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol

from torch import nn

from seitpp_models.evaluation.class_names import match_classes
from seitpp_models.evaluation.figures import OnBatch, evaluate_classifier, evaluate_masked, evaluate_segmenter
from seitpp_models.evaluation.predictions import PixelLog, PredictionLog
from seitpp_models.networks.masking import MaskRatio
from seitpp_models.networks.shape import Output
from seitpp_models.weights.files import TrainedModel
from tokenstore.errors import ArgumentError, Parameter
from tokenstore.format import LABELS, MASKS
from tokenstore.loading import TokenLoader
from tokenstore.reading import TokenStore

__all__ = [
    "ClassifierMeasure",
    "MaskedTokenMeasure",
    "Measure",
    "MeasuredSamples",
    "SegmenterMeasure",
    "ignored_label",
    "measure_for",
]

_USUAL_IGNORED = 255


@dataclass(frozen=True)
class MeasuredSamples:
    """The samples that a network is measured on, and what the network sees of them."""

    store: TokenStore
    where: str
    """The place of the samples, for messages."""
    loader: TokenLoader
    crop: tuple[int, int]
    embedding: nn.Module | None
    on_batch: OnBatch | None


class Measure(Protocol):
    """A way to measure a network: a frozen dataclass whose fields are the parameters it has."""

    network: ClassVar[str]
    """The networks that are measured so, with their article."""
    columns: ClassVar[tuple[str, ...]]
    """The columns of a store that are needed beside the codes."""
    any_grid: ClassVar[bool]
    """True if the networks take grids of several sizes."""
    of_images: ClassVar[bool]
    """True if the networks can be measured on images in class folders."""

    def figures(self, trained: TrainedModel, samples: MeasuredSamples) -> dict[str, Any]:
        """Return the figures of a network on samples, by name; raise ModelError if they do not fit it."""


@dataclass(frozen=True)
class ClassifierMeasure:
    """The loss, top-1 and, of more than five classes, top-5 of a classifier."""

    network: ClassVar[str] = "a classifier"
    columns: ClassVar[tuple[str, ...]] = (LABELS,)
    any_grid: ClassVar[bool] = True
    of_images: ClassVar[bool] = True
    all_classes: bool = False
    """True to keep the logits of classes that the data does not have."""
    log: PredictionLog | None = None
    """The log that gathers predictions."""

    def figures(self, trained: TrainedModel, samples: MeasuredSamples) -> dict[str, Any]:
        """Return `evaluate_classifier`'s figures; raise ModelError for classes the network does not know."""
        classes = match_classes(
            samples.store.manifest.class_names,
            trained.labels,
            trained.shape.classes,
            samples.where,
            all_classes=self.all_classes,
        )
        return dict(
            evaluate_classifier(
                trained.model,
                samples.loader,
                embedding=samples.embedding,
                crop=samples.crop,
                classes=classes,
                log=self.log,
                on_batch=samples.on_batch,
            )
        )


@dataclass(frozen=True)
class SegmenterMeasure:
    """The mean IoU, pixel accuracy and loss of a segmenter."""

    network: ClassVar[str] = "a segmenter"
    columns: ClassVar[tuple[str, ...]] = (MASKS,)
    any_grid: ClassVar[bool] = True
    of_images: ClassVar[bool] = False
    ignore_index: int | None = None
    """The label of pixels that count nowhere; by default the store's."""
    log: PixelLog | None = None
    """The log of the confusions, which names the file of label maps."""

    def figures(self, trained: TrainedModel, samples: MeasuredSamples) -> dict[str, Any]:
        """Return `evaluate_segmenter`'s figures; raise ModelError for labels out of range."""
        ignored = ignored_label(samples.store) if self.ignore_index is None else self.ignore_index
        classes, count = trained.shape.classes, len(samples.loader.dataset)
        with nullcontext() if self.log is None else self.log.writing(count, classes):
            return evaluate_segmenter(
                trained.model,
                samples.loader,
                classes=classes,
                ignore_index=ignored,
                embedding=samples.embedding,
                crop=samples.crop,
                log=self.log,
                on_batch=samples.on_batch,
            )


@dataclass(frozen=True)
class MaskedTokenMeasure:
    """The loss of a masked-token model, and the share of masked codes that it predicts."""

    network: ClassVar[str] = "a masked-token model"
    columns: ClassVar[tuple[str, ...]] = ()
    any_grid: ClassVar[bool] = False
    of_images: ClassVar[bool] = False
    mask_ratio: float = MaskRatio.mean
    """The share of the patches that is masked."""
    seed: int = 0
    """The seed of the masks."""

    def figures(self, trained: TrainedModel, samples: MeasuredSamples) -> dict[str, Any]:
        """Return `evaluate_masked`'s figures."""
        return dict(
            evaluate_masked(
                trained.model,
                samples.loader,
                seed=self.seed,
                ratio=self.mask_ratio,
                crop=samples.crop,
                on_batch=samples.on_batch,
            )
        )


_MEASURES: dict[Output, type[Measure]] = {
    "class": ClassifierMeasure,
    "label map": SegmenterMeasure,
    "codes": MaskedTokenMeasure,
}
"""The registry of measures, by the thing that a network's logits are of."""
_ALWAYS = {"seed"}
"""The parameters that have an effect on more than the measure."""


def measure_for(
    trained: TrainedModel, parameters: Mapping[str, Any], requested: Collection[str] = ()
) -> Measure:
    """Return the measure of a network, with those of the `parameters` that it has.

    Raises ArgumentError if one of the parameters `requested` belongs to the measure of other networks.
    """
    own_measure = _MEASURES[trained.shape.output]
    own = {field.name for field in fields(own_measure)}  # type: ignore[arg-type]
    for measure in _MEASURES.values():
        for name in sorted({field.name for field in fields(measure)} - own - _ALWAYS):  # type: ignore[arg-type]
            if name in requested:
                parameter = Parameter(name)
                raise ArgumentError(f"{parameter} goes with {measure.network}", parameters=[parameter])
    return own_measure(**{name: value for name, value in parameters.items() if name in own})


def ignored_label(store: TokenStore) -> int:
    """Return the label of pixels without a class: the store's, or 255 if the store names none."""
    stored: int | None = store.manifest.ignore_index
    return _USUAL_IGNORED if stored is None else stored
