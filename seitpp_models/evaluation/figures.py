"""The figures of a network on data: over all batches of a loader, and over all processes.

If torch.distributed is initialised, each process takes its part of the samples, and all processes get the
figures of the whole. Give a loader without `drop_last` and `pad`, so that each sample counts once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seitpp_models.errors import ModelError
from seitpp_models.evaluation.class_names import ClassMap
from seitpp_models.evaluation.predictions import PixelLog, PredictionLog
from seitpp_models.evaluation.sums import Mean, confusions, over_processes
from seitpp_models.networks.masking import MaskRatio, PatchMask, draw_mask
from seitpp_models.networks.segmentation import segmentation_loss
from seitpp_models.networks.shape import NetworkShape, taking_any_grid
from tokenstore.augment import CenterCrop
from tokenstore.loading import TokenLoader
from tokenstore.randomness import derived_seed

__all__ = [
    "ClassifierFigures",
    "OnBatch",
    "evaluate_classifier",
    "evaluate_masked",
    "evaluate_segmenter",
    "in_eval_mode",
    "without_nan",
]

Crop: TypeAlias = int | tuple[int, int]
"""The side, or the sides (H, W), of the central part of a grid."""
OnBatch: TypeAlias = Callable[[int], None]
"""A progress callback, which is called with the number of samples of each batch."""

_BEST = (1, 5)
"""The numbers of classes among which the label has to be: top-1, and top-5 of more than five classes."""


class ClassifierFigures:
    """The loss, top-1 and, of more than five classes, top-5 of logits, gathered batch by batch."""

    def __init__(self, classes: ClassMap | None = None, log: PredictionLog | None = None) -> None:
        """Begin without a batch; `classes` maps labels to the network's classes, by default to themselves.

        Predictions are added to the `log`, if there is one.
        """
        self._classes, self._log = classes, log
        self._means: dict[str, Mean] = {}

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: logits (B, K) and labels (B,) int64, on one device.

        Raises ModelError for labels that the network has no logits for.
        """
        logits = logits.float()
        count = logits.shape[1] if self._classes is None else len(self._classes.labels)
        _check_labels((labels < 0) | (labels >= count), labels, count)
        if self._classes is not None:
            labels = self._classes.labels.to(labels.device)[labels]
            logits = logits.masked_fill(~self._classes.counted.to(logits.device), -torch.inf)
        if not self._means:
            counted = logits.shape[1] if self._classes is None else int(self._classes.counted.sum())
            self._means = _classifier_means(logits.shape[1], counted)
        self._means["loss"].add(F.cross_entropy(logits, labels) * len(labels), len(labels))
        for most in _BEST:
            if (name := f"top{most}") in self._means:
                best = logits.topk(most).indices if most > 1 else logits.argmax(1, keepdim=True)
                self._means[name].add((best == labels[:, None]).any(1).sum(), len(labels))
        if self._log is not None:
            self._log.add(logits, labels)

    def compute(self) -> dict[str, float]:
        """Return the `loss` in nats, and the shares `top1` and `top5`, from 0 to 1, of all samples.

        There is no `top5` of five classes or fewer, among which every label is. Raises ModelError if there
        was no batch.
        """
        if not self._means:
            raise ModelError("expected samples to evaluate on, found none")
        return {name: mean.compute() for name, mean in self._means.items()}


def _classifier_means(classes: int, counted: int) -> dict[str, Mean]:
    """Return the means of logits of `classes`, of which `counted` are told apart, by their names."""
    if classes < 2:
        raise ModelError(f"expected a network of two classes or more, found {classes}")
    return {"loss": Mean()} | {f"top{most}": Mean() for most in _BEST if most < max(counted, 2)}


@torch.no_grad()
def evaluate_classifier(
    model: nn.Module,
    loader: Iterable[Sequence[Tensor]],
    *,
    embedding: nn.Module | None = None,
    crop: Crop | None = None,
    classes: ClassMap | None = None,
    log: PredictionLog | None = None,
    on_batch: OnBatch | None = None,
) -> dict[str, float]:
    """Return the figures of a classifier on batches of codes (B, H, W) and labels (B,): `ClassifierFigures`.

    The network is in eval mode, on its own device. It sees the central `crop` of the codes, as vectors if
    there is an `embedding`. Raises ModelError for labels out of range, and if there is no batch.
    """
    figures = ClassifierFigures(classes, log)
    with in_eval_mode(model, any_grid=crop is not None) as device:
        for codes, labels in loader:
            logits = model(network_input(codes.to(device), crop, embedding))
            figures.update(logits, labels.to(device).long())
            if on_batch is not None:
                on_batch(len(codes))
    return figures.compute()


@torch.no_grad()
def evaluate_segmenter(
    model: nn.Module,
    loader: Iterable[Sequence[Tensor]],
    *,
    classes: int,
    ignore_index: int,
    embedding: nn.Module | None = None,
    crop: Crop | None = None,
    log: PixelLog | None = None,
    on_batch: OnBatch | None = None,
) -> dict[str, Any]:
    """Return the figures of a segmenter on batches of codes (B, H, W) and label maps (B, h, w).

    They are the `loss` in nats, the mean IoU `miou`, the share `accuracy` of right pixels, and a list `iou`
    of each class. Pixels of `ignore_index` count nowhere. `miou` is the mean over classes that occur in maps
    or predictions; the `iou` of other classes, and of `ignore_index`, is NaN. With `crop`, codes and maps are
    cut to the same central part. The confusions and predicted label maps go into `log`.

    Raises ModelError for labels out of range, a crop whose border divides a pixel, and if no pixel counts.
    """
    loss = Mean()
    table: Tensor | None = None
    with in_eval_mode(model, any_grid=crop is not None) as device:
        for codes, masks in loader:
            codes, masks = codes.to(device), masks.to(device).long()
            masks = central_masks(masks, codes.shape[-2:], crop)
            counted = masks != ignore_index
            _check_labels(counted & ((masks < 0) | (masks >= classes)), masks, classes)
            logits = model(network_input(codes, crop, embedding), tuple(masks.shape[1:]))
            loss.add(segmentation_loss(logits, masks, ignore_index) * counted.sum(), counted.sum())
            predicted = logits.argmax(1)
            found = confusions(masks[counted], predicted[counted], classes)
            table = found if table is None else table + found
            if log is not None:
                log.add(predicted)
            if on_batch is not None:
                on_batch(len(codes))
    if table is None:
        raise ModelError("expected samples to evaluate on, found none")
    table = over_processes(table).cpu().double()
    if not bool(table.any()):
        raise ModelError(
            f"expected pixels to evaluate on, found none but of {ignore_index}, which is ignored"
        )
    if log is not None:
        log.table = table.long().numpy()
    iou = _intersections_over_unions(table, ignore_index)
    return {
        "loss": loss.compute(),
        "miou": float(iou.nanmean()),
        "accuracy": float(table.diagonal().sum() / table.sum()),
        "iou": iou.tolist(),
    }


@torch.no_grad()
def evaluate_masked(
    model: nn.Module,
    loader: TokenLoader,
    *,
    seed: int = 0,
    ratio: float = MaskRatio.mean,
    crop: Crop | None = None,
    on_batch: OnBatch | None = None,
) -> dict[str, float]:
    """Return the `loss` of a masked-token model in nats a masked code, and the share `right` of these codes.

    Of numbers they are the mean squared error, and the share of the numbers' square that is predicted.

    The loader's batches are codes (B, H, W), or begin with codes. A share `ratio` of each sample's patches is
    masked. The masked patches are a function of `seed` and of the sample's row number, so they are the same
    for every size of batch and number of processes.

    Raises ModelError for a network of another kind, and if there is no batch.
    """
    loss, right = Mean(), Mean()
    evaluated = False
    with in_eval_mode(model) as device:
        network = getattr(model, "module", model)
        shape: NetworkShape | None = getattr(network, "shape", None)
        if shape is None or shape.output != "codes":
            raise ModelError(f"expected a masked-token model, found {type(network).__name__}")
        rows, columns = shape.patches
        for batch in loader:
            codes = batch if isinstance(batch, Tensor) else batch[0]
            mask = _masks_of_rows(loader.last_rows.tolist(), rows * columns, ratio, seed).to(device)
            output = model(network_input(codes.to(device), crop, None), mask)
            evaluated = True
            # without the label smoothing that the model's own loss may have
            loss.add(output.plain_loss * len(codes), len(codes))
            right.add(output.right * len(codes), len(codes))
            if on_batch is not None:
                on_batch(len(codes))
    if not evaluated:
        raise ModelError("expected samples to evaluate on, found none")
    return {"loss": loss.compute(), "right": right.compute()}


def without_nan(value: Any) -> Any:
    """Return a value for JSON, with None in place of NaN and infinity."""
    if isinstance(value, dict):
        return {key: without_nan(part) for key, part in value.items()}
    if isinstance(value, list):
        return [without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def network_input(codes: Tensor, crop: Crop | None, embedding: nn.Module | None) -> Tensor:
    """Return the central `crop` of codes (B, H, W), as vectors (B, C, h, w) if there is an `embedding`."""
    if crop is not None:
        codes = CenterCrop(crop)(codes)
    return codes if embedding is None else embedding(codes)


def central_masks(masks: Tensor, grid: Sequence[int], crop: Crop | None) -> Tensor:
    """Return the part of label maps (B, h, w) that lies over the central `crop` of a grid (H, W) of codes.

    Raises ModelError if a border of the part is not between pixels.
    """
    if crop is None:
        return masks
    sides = (crop, crop) if isinstance(crop, int) else crop
    parts = []
    for length, codes, side in zip(masks.shape[1:], grid, sides, strict=True):
        first = (codes - side) // 2  # as CenterCrop has it
        if length * first % codes or length * side % codes:
            raise ModelError(
                f"expected label maps whose sides are multiples of the grid's, {tuple(grid)}, found "
                f"{tuple(masks.shape[1:])}: the central {tuple(sides)} codes do not cover whole pixels"
            )
        parts.append(slice(length * first // codes, length * (first + side) // codes))
    return masks[:, parts[0], parts[1]]


@contextmanager
def in_eval_mode(model: nn.Module, *, any_grid: bool = False) -> Iterator[torch.device]:
    """Put a network in eval mode until the block ends, and give its device.

    With `any_grid`, it takes grids of other sizes meanwhile, which somebody chose.
    """
    training = model.training
    model.eval()
    try:
        with taking_any_grid(model) if any_grid else nullcontext():
            yield next(model.parameters()).device
    finally:
        model.train(training)


def _intersections_over_unions(table: Tensor, ignore_index: int) -> Tensor:
    """Return the IoU of each class of a confusion table (true, predicted); NaN for absent classes."""
    both = table.diagonal()
    either = table.sum(0) + table.sum(1) - both
    iou = torch.where(either > 0, both / either, torch.nan)
    if 0 <= ignore_index < len(iou):
        iou[ignore_index] = torch.nan
    return iou


def _masks_of_rows(row_numbers: Sequence[int], patches: int, ratio: float, seed: int) -> PatchMask:
    """Draw a mask for each row number, as a function of `seed` and the number."""
    dropped = min(MaskRatio.low, ratio)
    masks = []
    for number in row_numbers:
        generator = torch.Generator().manual_seed(derived_seed(seed, number))
        masks.append(draw_mask(1, patches, ratio, dropped, generator))
    return PatchMask(torch.cat([mask.visible for mask in masks]), torch.cat([mask.masked for mask in masks]))


def _check_labels(wrong: Tensor, labels: Tensor, classes: int) -> None:
    if bool(wrong.any()):
        label = int(labels[wrong][0])
        raise ModelError(
            f"expected labels from 0 to {classes - 1}, of the {classes} classes that the network was trained "
            f"on, found {label}; evaluate it on data with these classes"
        )
