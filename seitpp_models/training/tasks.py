"""What a network is trained to do: predict masked tokens, classify, segment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seitpp_models.networks.masking import MaskRatio, PatchMask, draw_mask, draw_ratio
from seitpp_models.networks.segmentation import segmentation_loss
from tokenstore.randomness import folded, key_words

__all__ = ["Classification", "Loss", "MaskedTokens", "Segmentation", "StepRandom", "Task"]

_COMMON = 0xFFFF
"""Stands for the rank where all processes draw the same."""


@dataclass(frozen=True)
class Loss:
    """What a batch gave."""

    value: Tensor
    """() mean over all that counts, to go back through."""
    right: Tensor
    """() share of predictions that were right."""
    weight: float | Tensor
    """How many samples, or parts of them, the means are over."""


@dataclass(frozen=True)
class StepRandom:
    """What a step of one of several processes draws from."""

    own: torch.Generator
    """On its device; each process draws something else."""
    common: torch.Generator
    """On the CPU; all draw the same."""
    rank: int
    world_size: int

    @classmethod
    def of(cls, seed: int, step: int, rank: int, world_size: int, device: torch.device) -> StepRandom:
        """A function of all this; dropout and drop-path, which draw from torch's own generator, too."""
        own, common = (int(folded(key_words(seed, step, place))) >> 1 for place in (rank, _COMMON))
        torch.manual_seed(own)
        return cls(
            torch.Generator(device).manual_seed(own), torch.Generator().manual_seed(common), rank, world_size
        )


class Task(Protocol):
    """What a step of training does with a batch of a store's columns, on its device."""

    @property
    def columns(self) -> Sequence[str]: ...

    def loss(self, model: nn.Module, batch: Sequence[Tensor], random: StepRandom) -> Loss:
        """Augment a batch, and see what `model` makes of it."""


class MaskedTokens:
    """Predict the codes of masked patches: `recipe(codes, None, generator=...)`, then a mask.

    All processes have the same ratio, and in whole batches the masks that one would have had.
    """

    columns = ("tokens",)

    def __init__(self, recipe: nn.Module, patches: int, ratio: MaskRatio) -> None:
        self.recipe, self.patches, self.ratio = recipe, patches, ratio

    def loss(self, model: nn.Module, batch: Sequence[Tensor], random: StepRandom) -> Loss:
        codes, _ = self.recipe(batch[0], None, generator=random.own)
        share = draw_ratio(self.ratio, random.common)
        count = len(codes)
        mask = draw_mask(count * random.world_size, self.patches, share, self.ratio.low, random.common)
        here = slice(count * random.rank, count * (random.rank + 1))
        output = model(codes, PatchMask(mask.kept[here], mask.masked[here]).to(codes.device))
        right = (output.logits.detach().argmax(-1) == output.targets).float().mean()
        return Loss(output.loss, right, count)


class Classification:
    """Predict labels: `recipe(codes, labels, generator=...)` gives inputs and labels or probabilities."""

    columns = ("tokens", "labels")

    def __init__(self, recipe: nn.Module, label_smoothing: float = 0.0) -> None:
        """`label_smoothing` is of labels; probabilities have been smoothed by the recipe."""
        self.recipe, self.label_smoothing = recipe, label_smoothing

    def loss(self, model: nn.Module, batch: Sequence[Tensor], random: StepRandom) -> Loss:
        inputs, targets = self.recipe(batch[0], batch[1], generator=random.own)
        logits = model(inputs)
        soft = targets.is_floating_point()
        smoothing = 0.0 if soft else self.label_smoothing
        loss = F.cross_entropy(logits.float(), targets, label_smoothing=smoothing)
        wanted = targets.argmax(1) if soft else targets
        return Loss(loss, (logits.detach().argmax(1) == wanted).float().mean(), len(logits))


class Segmentation:
    """Predict label maps: `recipe(codes, masks, generator=...)` moves both alike.

    Each pixel that is not ignored counts alike, whatever sample, part or process it is in.
    """

    columns = ("tokens", "masks")

    def __init__(self, recipe: nn.Module, ignore_index: int) -> None:
        self.recipe, self.ignore_index = recipe, ignore_index

    def loss(self, model: nn.Module, batch: Sequence[Tensor], random: StepRandom) -> Loss:
        inputs, masks = self.recipe(batch[0], batch[1], generator=random.own)
        masks = masks.long()
        logits: Any = model(inputs, tuple(masks.shape[1:]))
        counted = masks != self.ignore_index
        right = ((logits.detach().argmax(1) == masks) & counted).sum() / counted.sum().clamp(min=1)
        weight = counted.sum() / masks[0].numel()
        return Loss(segmentation_loss(logits, masks, self.ignore_index), right, weight)
