"""Training a network on a store: steps of AdamW on batches of a TokenLoader, on any number of processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from seitpp_models.errors import ModelError
from seitpp_models.models import TrainedModel, save_model
from seitpp_models.training.tasks import Task
from tokenstore.loader import TokenLoader
from tokenstore.runs import ResumableRun
from tokenstore.sampling.feistel import folded
from tokenstore.sampling.permutation import key_words

__all__ = ["NetworkRun", "NetworkStep", "OptimiserConfig"]

WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class OptimiserConfig:
    """How a network learns. The same config, store and processes give the same weights on a CPU."""

    epochs: int
    batch_size: int
    """Samples a step, of all processes together."""
    learning_rate: float
    """At its highest."""
    warmup_epochs: float = 5.0
    minimum_rate: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.05
    layer_decay: float = 1.0
    """Factor of the learning rate from each layer to the one before it."""
    clip: float = 0.0
    """Largest norm of the gradients; 0: any."""
    average_decay: float = 0.0
    """Of the average of the weights that is kept and evaluated; 0: none."""
    accumulation: int = 1
    """Parts that a process computes its share of a step in."""
    seed: int = 0
    steps: int = 0
    """In all; of the epochs."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))
        positive = (self.epochs, self.batch_size, self.accumulation, self.learning_rate)
        if min(positive) <= 0 or self.warmup_epochs < 0 or not 0 < self.layer_decay <= 1:
            raise ModelError(f"expected positive numbers, and a layer_decay up to 1, found {self}")


@dataclass(frozen=True)
class NetworkStep:
    """One step of training, of the first process's part of the batch."""

    step: int
    """Steps done."""
    epoch: float
    loss: float
    right: float
    """Share of predictions that were right."""
    learning_rate: float
    seconds: float
    """Of training so far."""


class NetworkRun(ResumableRun[Sequence[Tensor], NetworkStep]):
    """A run that trains a network on a loader's batches, and its state in a folder.

    `accelerator` says on which devices, in how many processes and in what precision. All randomness of a
    step is a function of seed, step and process, so that a run that goes on gives what it would have given.
    """

    error = ModelError
    config: OptimiserConfig

    def __init__(
        self,
        config: OptimiserConfig,
        trained: TrainedModel,
        task: Task,
        loader: TokenLoader,
        out: Path,
        inputs: Mapping[str, tuple[str, str]],
        accelerator: Accelerator,
    ) -> None:
        super().__init__(config, out, inputs)
        self.accelerator, self.task, self.loader = accelerator, task, loader
        self.trained_model = trained
        optimizer = create_optimizer_v2(
            trained.model,
            opt="adamw",
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            betas=config.betas,
            layer_decay=None if config.layer_decay == 1 else config.layer_decay,
        )
        self.model, self.optimizer = accelerator.prepare(trained.model, optimizer)
        self.average = ModelEmaV3(trained.model, config.average_decay) if config.average_decay else None
        per_epoch = len(loader)
        self.schedule = CosineLRScheduler(
            optimizer,
            t_initial=config.steps,
            lr_min=config.minimum_rate,
            warmup_t=round(config.warmup_epochs * per_epoch),
            warmup_lr_init=0.0,
            t_in_epochs=False,
        )

    @property
    def evaluated(self) -> nn.Module:
        """The network whose weights count: their average, where one is kept."""
        return self.trained_model.model if self.average is None else self.average.module

    def batches(self) -> Iterable[Sequence[Tensor]]:
        for epoch in range(self.loader.epoch, self.config.epochs):
            self.loader.set_epoch(epoch)
            for batch in self.loader:
                yield batch if isinstance(batch, (tuple, list)) else (batch,)

    def trained(self, batch: Sequence[Tensor]) -> Callable[[int, float], NetworkStep]:
        rank = self.accelerator.process_index
        seed = int(folded(key_words(self.config.seed, self.step, rank))) >> 1
        torch.manual_seed(seed)  # dropout and drop-path draw from the global generator
        generator = torch.Generator(self.accelerator.device).manual_seed(seed)
        self.schedule.step_update(self.step + 1)
        self.optimizer.zero_grad()
        self.model.train()
        parts = list(zip(*(column.chunk(self.config.accumulation) for column in batch), strict=True))
        count = len(batch[0])
        loss = right = 0.0
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            share = len(part[0]) / count
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                with self.accelerator.autocast():
                    found = self.task.loss(self.model, part, generator)
                value = float(found.value.detach())
                self._refuse_unless_finite(value, batch)
                self.accelerator.backward(found.value * share)
            loss += share * value
            right += share * float(found.right)
        if self.config.clip:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.accelerator.unwrap_model(self.model), self.step)
        rate = max(group["lr"] for group in self.optimizer.param_groups)
        epoch = (self.step + 1) / len(self.loader)
        return lambda step, seconds: NetworkStep(step, epoch, loss, right, rate, seconds)

    def _refuse_unless_finite(self, value: float, batch: Sequence[Tensor]) -> None:
        if math.isfinite(value):
            return
        rows = ", ".join(map(str, self.loader.last_rows.tolist()))
        raise ModelError(
            f"training: the loss of step {self.step} is {value}, on samples {rows} of the split. The last "
            f"checkpoint in {self.out} is from before; look at these samples, or begin anew with a lower "
            "learning rate"
        )

    def save_weights(self) -> None:
        save_model(replace(self.trained_model, model=self.evaluated), self.out / WEIGHTS)

    def save(self) -> None:
        if self.accelerator.is_main_process:
            super().save()
        self.accelerator.wait_for_everyone()

    def state(self) -> dict[str, Any]:
        return {
            "model": self.accelerator.unwrap_model(self.model).state_dict(),
            "average": None if self.average is None else self.average.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": None if self.accelerator.scaler is None else self.accelerator.scaler.state_dict(),
            "loader": self.loader.state_dict(),
        }

    def take(self, state: Mapping[str, Any]) -> None:
        self.accelerator.unwrap_model(self.model).load_state_dict(state["model"])
        if self.average is not None:
            self.average.module.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.loader.load_state_dict(state["loader"])
