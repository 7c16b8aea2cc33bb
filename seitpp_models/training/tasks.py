"""The tasks that a network is trained for: predicting masked tokens, classifying, segmenting.

A task owns its columns of the store, its augmentation, its loss and its evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seitpp_models.evaluation.measures import (
    ClassifierMeasure,
    MaskedTokenMeasure,
    Measure,
    SegmenterMeasure,
)
from seitpp_models.networks.masking import MaskRatio, PatchMask, draw_mask, draw_ratio
from seitpp_models.networks.segmentation import segmentation_loss
from tokenstore.augment import soft_targets
from tokenstore.format import LABELS, MASKS, TOKENS
from tokenstore.randomness import derived_seed

__all__ = ["Classification", "Loss", "MaskedTokens", "Segmentation", "StepRandom", "Task"]

ClassLoss: TypeAlias = Literal["cross-entropy", "bce"]

_COMMON = 0xFFFF
"""The number that stands for the rank if all processes draw the same."""


@dataclass(frozen=True)
class Loss:
    """The loss of a batch."""

    value: Tensor
    """The loss (), a mean over all that counts, to go back through."""
    right: Tensor
    """The share () of predictions that were right."""
    weight: float | Tensor
    """The number of samples that the means are over, parts of samples included."""


@dataclass(frozen=True)
class StepRandom:
    """The random generators of a step in one of several processes."""

    own: torch.Generator
    """The generator on the process's device; each process draws something else."""
    common: torch.Generator
    """The generator on the CPU; all processes draw the same."""
    rank: int
    world_size: int

    @classmethod
    def of(cls, seed: int, step: int, rank: int, world_size: int, device: torch.device) -> StepRandom:
        """Return the generators of a step: a pure function of the arguments.

        Dropout and drop-path draw from torch's own generator, which is seeded too.
        """
        own, common = (derived_seed(seed, step, place) for place in (rank, _COMMON))
        torch.manual_seed(own)
        return cls(
            torch.Generator(device).manual_seed(own), torch.Generator().manual_seed(common), rank, world_size
        )


class Task(Protocol):
    """A task: the columns, the augmentation, the loss and the evaluation of a training run."""

    @property
    def columns(self) -> Sequence[str]:
        """The columns of the store that a batch has, in this order."""

    @property
    def recipe(self) -> nn.Module:
        """The augmentation of a batch."""

    @property
    def measure(self) -> Measure:
        """The evaluation of the network."""

    def loss(self, model: nn.Module, batch: Sequence[Tensor], random: StepRandom) -> Loss:
        """Augment a batch of the columns, on their device, and return the loss of `model` on it."""


class MaskedTokens:
    """The task to predict the codes of masked patches: `recipe(codes, None, generator=...)`, then a mask.

    All processes have the same ratio, and in whole batches the masks that one process would have had.
    """

    columns = (TOKENS,)

    def __init__(self, recipe: nn.Module, patches: int, ratio: MaskRatio) -> None:
        self.recipe, self.patches, self.ratio = recipe, patches, ratio

    @property
    def measure(self) -> Measure:
        """The loss with the usual share of masked patches in training."""
        return MaskedTokenMeasure(min(max(self.ratio.mean, self.ratio.low), self.ratio.high))

    def loss(self, model: nn.Module, batch: Sequence[Tensor], random: StepRandom) -> Loss:
        """Mask patches of codes (B, H, W), and return the cross-entropy of the codes in them."""
        codes, _ = self.recipe(batch[0], None, generator=random.own)
        share = draw_ratio(self.ratio, random.common)
        count = len(codes)
        mask = draw_mask(count * random.world_size, self.patches, share, self.ratio.low, random.common)
        here = slice(count * random.rank, count * (random.rank + 1))
        output = model(codes, PatchMask(mask.visible[here], mask.masked[here]).to(codes.device))
        return Loss(output.loss, output.right, count)


class Classification:
    """The task to predict labels: `recipe(codes, labels, generator=...)` gives inputs and targets.

    Targets are labels, or probabilities of the classes.
    """

    columns = (TOKENS, LABELS)
    measure: Measure = ClassifierMeasure()

    def __init__(
        self, recipe: nn.Module, label_smoothing: float = 0.0, loss: ClassLoss = "cross-entropy"
    ) -> None:
        """Smooth labels by `label_smoothing`; the recipe has smoothed probabilities itself."""
        self.recipe, self.label_smoothing, self.class_loss = recipe, label_smoothing, loss

    def loss(self, model: nn.Module, batch: Sequence[Tensor], random: StepRandom) -> Loss:
        """Return the cross-entropy of the labels (B,) or the probabilities (B, classes).

        With the loss "bce" it is the binary cross-entropy, a mean over classes too.
        """
        inputs, targets = self.recipe(batch[0], batch[1], generator=random.own)
        logits = model(inputs)
        soft = targets.is_floating_point()
        smoothing = 0.0 if soft else self.label_smoothing
        if self.class_loss == "bce":
            share = targets if soft else soft_targets(targets, logits.shape[1], smoothing)
            loss = F.binary_cross_entropy_with_logits(logits.float(), share)
        else:
            loss = F.cross_entropy(logits.float(), targets, label_smoothing=smoothing)
        expected = targets.argmax(1) if soft else targets
        return Loss(loss, (logits.detach().argmax(1) == expected).float().mean(), len(logits))


class Segmentation:
    """The task to predict label maps: `recipe(codes, masks, generator=...)` moves both alike.

    Each pixel that is not ignored counts alike, whatever its sample, part of the batch or process.
    """

    columns = (TOKENS, MASKS)

    def __init__(self, recipe: nn.Module, ignore_index: int) -> None:
        self.recipe, self.ignore_index = recipe, ignore_index

    @property
    def measure(self) -> Measure:
        """The mean IoU, without the ignored label."""
        return SegmenterMeasure(self.ignore_index)

    def loss(self, model: nn.Module, batch: Sequence[Tensor], random: StepRandom) -> Loss:
        """Return the cross-entropy of the pixels of label maps (B, h, w) that are not ignored."""
        inputs, masks = self.recipe(batch[0], batch[1], generator=random.own)
        masks = masks.long()
        logits: Any = model(inputs, tuple(masks.shape[1:]))
        counted = masks != self.ignore_index
        right = ((logits.detach().argmax(1) == masks) & counted).sum() / counted.sum().clamp(min=1)
        weight = counted.sum() / masks[0].numel()
        return Loss(segmentation_loss(logits, masks, self.ignore_index), right, weight)
