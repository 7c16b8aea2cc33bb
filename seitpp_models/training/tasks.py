"""What a network is trained to do: pre-train on masked tokens, classify, segment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seitpp_models.masking import MaskRatio, draw_mask, draw_ratio
from seitpp_models.segmentation import segmentation_loss

__all__ = ["Classification", "Loss", "MaskedTokens", "Segmentation", "Task"]


@dataclass(frozen=True)
class Loss:
    """What a batch gave."""

    value: Tensor
    """() to go back through."""
    right: Tensor
    """() share of predictions that were right."""


class Task(Protocol):
    """What a step of training does with a batch of a store's columns, on its device."""

    columns: Sequence[str]

    def loss(self, model: nn.Module, batch: Sequence[Tensor], generator: torch.Generator) -> Loss:
        """Augment a batch, and see what `model` makes of it; the same for the same state of `generator`."""


class MaskedTokens:
    """Predict the codes of masked patches: `recipe(codes, None, generator=...)`, then a mask."""

    columns = ("tokens",)

    def __init__(self, recipe: nn.Module, patches: int, ratio: MaskRatio) -> None:
        self.recipe, self.patches, self.ratio = recipe, patches, ratio

    def loss(self, model: nn.Module, batch: Sequence[Tensor], generator: torch.Generator) -> Loss:
        codes, _ = self.recipe(batch[0], None, generator=generator)
        share = draw_ratio(self.ratio, generator)
        mask = draw_mask(len(codes), self.patches, share, self.ratio.low, generator).to(codes.device)
        output = model(codes, mask)
        right = (output.logits.detach().argmax(-1) == output.targets).float().mean()
        return Loss(output.loss, right)


class Classification:
    """Predict labels: `recipe(codes, labels, generator=...)` gives inputs and labels or probabilities."""

    columns = ("tokens", "labels")

    def __init__(self, recipe: nn.Module, label_smoothing: float = 0.0) -> None:
        self.recipe, self.label_smoothing = recipe, label_smoothing

    def loss(self, model: nn.Module, batch: Sequence[Tensor], generator: torch.Generator) -> Loss:
        inputs, targets = self.recipe(batch[0], batch[1], generator=generator)
        logits = model(inputs)
        soft = targets.is_floating_point()
        loss = F.cross_entropy(logits.float(), targets, label_smoothing=0.0 if soft else self.label_smoothing)
        wanted = targets.argmax(1) if soft else targets
        return Loss(loss, (logits.detach().argmax(1) == wanted).float().mean())


class Segmentation:
    """Predict label maps: `recipe(codes, masks, generator=...)` moves both alike."""

    columns = ("tokens", "masks")

    def __init__(self, recipe: nn.Module, ignore_index: int) -> None:
        self.recipe, self.ignore_index = recipe, ignore_index

    def loss(self, model: nn.Module, batch: Sequence[Tensor], generator: torch.Generator) -> Loss:
        inputs, masks = self.recipe(batch[0], batch[1], generator=generator)
        logits: Any = model(inputs, tuple(masks.shape[1:]))
        counted = masks != self.ignore_index
        right = ((logits.detach().argmax(1) == masks) & counted).sum() / counted.sum().clamp(min=1)
        return Loss(segmentation_loss(logits, masks, self.ignore_index), right)
