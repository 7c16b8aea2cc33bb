"""The optimiser of a run: AdamW over groups of parameters, and the schedule of its learning rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import nn

from seitpp_models.errors import ModelError
from seitpp_models.training.settings import LearningSettings
from tokenstore.errors import Parameter
from tokenstore.texts import counted

__all__ = ["OptimiserConfig", "ParameterGroup", "groups_of", "optimiser_of", "schedule_of"]


@dataclass(frozen=True)
class OptimiserConfig:
    """The optimiser of a run. The same config, store and processes give the same weights on a CPU."""

    epochs: int
    batch_size: int
    """The samples of a step, of all processes together."""
    learning_rate: float
    """The peak of the learning rate."""
    steps: int
    """The steps of all epochs."""
    warmup_steps: int = 0
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.05
    layer_decay: float = 1.0
    """The factor of the learning rate from each layer to the one before it."""
    clip: float = 0.0
    """The largest norm of the gradients; 0: any."""
    average_decay: float = 0.0
    """The decay of the average of the weights; 0: no average."""
    evaluate_average: bool = True
    """True to evaluate the average and save it as the network; False to save it beside the network."""
    accumulation: int = 1
    """The number of parts that a process computes its share of a step in."""
    seed: int = 0
    min_lr: float = 0.0
    """The learning rate that the cosine ends at."""
    warmup_lr: float = 0.0
    """The learning rate that the warm-up begins at."""

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < math.inf:
            rate = Parameter("learning_rate", self.learning_rate)
            raise ModelError(f"{rate}: expected a finite number above 0", parameters=[rate])
        if not 0 <= self.warmup_steps < self.steps:
            warmup = Parameter("warmup_epochs")
            raise ModelError(
                f"expected a warm-up shorter than the {counted(self.steps, 'step')} of "
                f"{counted(self.epochs, 'epoch')}, found {counted(self.warmup_steps, 'step')}; shorten it by "
                f"{warmup}, or train for more epochs",
                parameters=[warmup],
            )
        for name in ("min_lr", "warmup_lr"):
            value = getattr(self, name)
            if value > self.learning_rate:
                parameters = Parameter(name, value), Parameter("learning_rate", self.learning_rate)
                raise ModelError(
                    f"{parameters[0]}: expected a rate up to the peak, {parameters[1]}", parameters=parameters
                )

    @classmethod
    def of(cls, learning: LearningSettings, steps: int) -> OptimiserConfig:
        """Return the config of a run whose epochs have `steps`; raises ModelError as the class does."""
        return cls(
            epochs=learning.epochs,
            batch_size=learning.batch_size,
            learning_rate=learning.learning_rate,
            steps=learning.epochs * steps,
            warmup_steps=round(learning.warmup_epochs * steps),
            betas=(0.9, learning.beta2),
            weight_decay=learning.weight_decay,
            layer_decay=learning.layer_decay,
            clip=learning.clip,
            average_decay=learning.ema,
            evaluate_average=learning.evaluate_ema,
            accumulation=learning.accumulation,
            seed=learning.seed,
            min_lr=learning.min_lr,
            warmup_lr=learning.warmup_lr,
        )


@dataclass(frozen=True)
class ParameterGroup:
    """The parameters of a network that the optimiser treats alike."""

    scale: float
    """The factor of the learning rate."""
    weight_decay: float
    names: tuple[str, ...]
    """The names of the parameters."""
    weights: int
    """The number of weights in all parameters."""


def optimiser_of(config: OptimiserConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Return AdamW over the parameters of a network that have gradients.

    Biases, other vectors and what the network's `no_weight_decay` names have no weight decay. With a layer
    decay, learning rates fall by the layers of the network's `group_matcher`.
    """
    optimizer: torch.optim.Optimizer = create_optimizer_v2(
        model,
        opt="adamw",
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        betas=config.betas,
        layer_decay=None if config.layer_decay == 1 else config.layer_decay,
        fused=True,
    )
    return optimizer


def schedule_of(config: OptimiserConfig, optimizer: torch.optim.Optimizer) -> Any:
    """Return timm's schedule by steps: a linear warm-up, then half a cosine."""
    return CosineLRScheduler(
        optimizer,
        t_initial=config.steps - config.warmup_steps + 1,  # the rate of the last step is above the least
        lr_min=config.min_lr,
        warmup_t=config.warmup_steps,
        warmup_lr_init=config.warmup_lr,
        warmup_prefix=True,
        t_in_epochs=False,
    )


def groups_of(optimizer: torch.optim.Optimizer, model: nn.Module) -> Sequence[ParameterGroup]:
    """Return the groups of an optimiser by the parameters' names, those of the smallest scale first."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = [
        ParameterGroup(
            float(group.get("lr_scale", 1.0)),
            float(group["weight_decay"]),
            tuple(names[id(parameter)] for parameter in group["params"]),
            sum(parameter.numel() for parameter in group["params"]),
        )
        for group in optimizer.param_groups
    ]
    return sorted(groups, key=lambda group: (group.scale, group.weight_decay))
