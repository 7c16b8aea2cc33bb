"""The result of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from seitpp_models.errors import ModelError
from seitpp_models.evaluation.figures import without_nan
from seitpp_models.evaluation.on_images import CLEAN, Condition
from seitpp_models.evaluation.predictions import ClassFigures, PixelCounts, Predictions
from tokenstore.sources.images import Resize

__all__ = ["Evaluation", "ImageFacts"]


@dataclass(frozen=True)
class ImageFacts:
    """The facts of an evaluation on images."""

    skipped: Sequence[tuple[str, str]]
    """The names of images that cannot be read, and why; they count nowhere."""
    classes: int | None
    """The number of class folders; None if the source names no classes."""
    all_classes: bool
    tokenizer: str
    image_size: tuple[int, int]
    """The height and width that images become, in pixels."""
    resize: Resize
    grid: tuple[int, ...]
    """The sides of an image's codes."""
    crop: tuple[int, int]
    """The sides of the part of them that the network sees."""
    seed: int


@dataclass(frozen=True)
class Evaluation:
    """The figures of a network on a split of a store or of a source of images."""

    kind: str
    """The kind of the network, such as vit."""
    place: str
    """The store or the source."""
    split: str
    samples: int
    """The number of samples that count."""
    results: Mapping[Condition, Mapping[str, Any]]
    """The figures by name of each condition of the images; a store has one condition, as it is."""
    class_names: Sequence[str] | None
    """The names of the network's classes."""
    images: ImageFacts | None
    """More facts, if the evaluation was on images."""
    notes: Sequence[str] = ()
    """Sentences about images that were not prepared as those that the network was trained on."""
    predictions: Mapping[Condition, Predictions | PixelCounts] = field(default_factory=dict, repr=False)
    """The predictions under each condition, a segmenter's counted; empty unless they were asked for."""

    @property
    def figures(self) -> Mapping[str, Any]:
        """The figures by name on samples as they are: `loss`, and `top1`, `top5`, `miou` and the like."""
        return self.results[CLEAN]

    @property
    def by_class(self) -> tuple[ClassFigures, ...]:
        """The figures of each class, on samples as they are; raises ModelError without predictions."""
        return self._clean.by_class(self.class_names)

    @property
    def confusion(self) -> npt.NDArray[np.int64]:
        """The numbers of samples, or pixels, (K, K) by label and by the label predicted.

        Raises ModelError without predictions.
        """
        return self._clean.confusion()

    @property
    def _clean(self) -> Predictions | PixelCounts:
        if CLEAN not in self.predictions:
            raise ModelError(
                "expected kept predictions, found none; evaluate a classifier or segmenter with by_class=True"
            )
        return self.predictions[CLEAN]

    def to_dict(self) -> dict[str, Any]:
        """Return the evaluation as values that JSON has; NaN becomes None."""
        facts: dict[str, Any] = {"kind": self.kind, "store" if self.images is None else "images": self.place}
        facts |= {"split": self.split, "samples": self.samples, "notes": list(self.notes)}
        if self.images is None:
            document = {**facts, **self.figures}
        else:
            results = [{**asdict(condition), **figures} for condition, figures in self.results.items()]
            document = {**facts, **asdict(self.images), "results": results}
        if self.predictions:
            document["by_class"] = [figures.to_dict() for figures in self.by_class]
        plain: dict[str, Any] = without_nan(document)
        return plain
