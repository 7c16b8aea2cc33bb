"""The evaluation of networks: on token stores, and on images, as they are and corrupted.

One front door: `evaluate` measures the network in a file and returns an `Evaluation`.

    from seitpp_models.evaluation import evaluate
    evaluate("model.safetensors", store="imagenet.zarr", split="val").figures["top1"]

Inside: `figures` computes figures over all batches and processes, `measures` has one way to measure for each
thing that a network's logits are of, and `corruptions` changes images after ImageNet-C. This wing imports
networks and weights, never training. Names are imported on use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenstore.doors import lazy_names

if TYPE_CHECKING:
    from seitpp_models.evaluation.evaluating import evaluate
    from seitpp_models.evaluation.on_images import CLEAN, Condition, evaluate_images
    from seitpp_models.evaluation.on_stores import Batches, evaluate_store
    from seitpp_models.evaluation.predictions import ClassFigures, Predictions
    from seitpp_models.evaluation.results import Evaluation, ImageFacts
    from seitpp_models.evaluation.settings import EvaluationSettings

__all__ = [
    "CLEAN",
    "Batches",
    "ClassFigures",
    "Condition",
    "Evaluation",
    "EvaluationSettings",
    "ImageFacts",
    "Predictions",
    "evaluate",
    "evaluate_images",
    "evaluate_store",
]

_HOMES = {
    "CLEAN": "on_images",
    "Batches": "on_stores",
    "ClassFigures": "predictions",
    "Condition": "on_images",
    "Evaluation": "results",
    "EvaluationSettings": "settings",
    "ImageFacts": "results",
    "Predictions": "predictions",
    "evaluate": "evaluating",
    "evaluate_images": "on_images",
    "evaluate_store": "on_stores",
}
"""The module of each name."""

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
