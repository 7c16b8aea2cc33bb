"""The steps of a run: AdamW on batches of a TokenLoader, on any number of processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from typing_extensions import override

from seitpp_models.errors import ModelError, SamplesError
from seitpp_models.training.optimisers import OptimiserConfig, optimiser_of, schedule_of
from seitpp_models.training.records import RunRecord
from seitpp_models.training.tasks import StepRandom, Task
from seitpp_models.weights.files import WEIGHTS, TrainedModel, save_model
from tokenstore.loading import TokenLoader
from tokenstore.networks.runs import ResumableRun
from tokenstore.networks.states import load_optimizer

__all__ = ["AVERAGE", "WEIGHTS", "NetworkRun", "NetworkStep"]

AVERAGE = "average.safetensors"
"""The file of the average of the weights, where the network itself is evaluated."""


@dataclass(frozen=True)
class NetworkStep:
    """A step of training, over the batches of all processes."""

    step: int
    """The number of steps done."""
    epoch: float
    loss: float
    right: float
    """The share of predictions that were right."""
    learning_rate: float
    seconds: float
    """The seconds of training so far."""


class NetworkRun(ResumableRun[Sequence[Tensor], NetworkStep]):
    """A run that trains a network on a loader's batches, and its state in a folder.

    `accelerator` has the devices, the processes and the precision. All randomness of a step is a function of
    seed, step and process, so that an interrupted run gives the weights it would have given.
    """

    error = ModelError
    config: OptimiserConfig
    logged_steps = 1

    def __init__(
        self,
        config: OptimiserConfig,
        network: TrainedModel,
        task: Task,
        loader: TokenLoader,
        out: Path,
        settings: Mapping[str, str],
        accelerator: Accelerator,
        record: RunRecord | None = None,
    ) -> None:
        """Prepare a run that `config` and `settings` decide; a resumed run must have equal ones.

        The `record` of how it is begun, if any, is written to the folder, and compared with what lies there.
        """
        super().__init__(
            config, out, {name: (f"{name} is now {value}", value) for name, value in settings.items()}
        )
        self.record = record
        self.network, self.task, self.loader, self.accelerator = network, task, loader, accelerator
        optimizer = optimiser_of(config, network.model)
        self.schedule = schedule_of(config, optimizer)
        self.model, self.optimizer = accelerator.prepare(network.model, optimizer)
        self.average = ModelEmaV3(network.model, config.average_decay) if config.average_decay else None

    @property
    def evaluated(self) -> nn.Module:
        """The network to evaluate and save: the average of the weights, if there is one to be evaluated."""
        if self.average is None or not self.config.evaluate_average:
            return self.network.model
        averaged: nn.Module = self.average.module
        return averaged

    @property
    def beside(self) -> tuple[str, nn.Module] | None:
        """The network that is evaluated beside `evaluated`, and its name in figures; None without an average.

        It is the average of the weights, or the network itself where the average is evaluated.
        """
        if self.average is None:
            return None
        averaged: nn.Module = self.average.module
        return ("raw", self.network.model) if self.config.evaluate_average else ("average", averaged)

    @override
    def check_begun(self) -> None:
        if self.record is not None:
            self.record.check(self.out)

    @override
    def note_beginning(self) -> None:
        if self.record is not None:
            self.record.write(self.out)

    @property
    @override
    def writes(self) -> bool:
        return bool(self.accelerator.is_main_process)

    @override
    def agree(self, *wishes: bool) -> tuple[bool, ...]:
        if self.accelerator.num_processes == 1:
            return wishes
        return tuple(bool(count) for count in self._summed(*wishes))

    @override
    def batches(self) -> Iterable[Sequence[Tensor]]:
        for epoch in range(self.loader.epoch, self.config.epochs):
            self.loader.set_epoch(epoch)
            for batch in self.loader:
                yield batch if isinstance(batch, (tuple, list)) else (batch,)

    @override
    def train_on(self, batch: Sequence[Tensor]) -> Callable[[int, float], NetworkStep]:
        random = StepRandom.of(
            self.config.seed, self.step, self.accelerator.process_index, self.accelerator.num_processes,
            self.accelerator.device,
        )  # fmt: skip
        self.schedule.step_update(self.step + 1)
        self.optimizer.zero_grad()
        self.model.train()
        count = len(batch[0])
        [everyone] = self._summed(count)
        parts = list(zip(*(column.chunk(self.config.accumulation) for column in batch), strict=True))
        loss = right = weight = 0.0
        for number, part in enumerate(parts):
            waits = number < len(parts) - 1
            with self.accelerator.no_sync(self.model) if waits else nullcontext():
                with self.accelerator.autocast():
                    part_loss = self.task.loss(self.model, part, random)
                share = part_loss.weight / everyone
                # The sum of the processes' gradients is needed; Accelerate takes their mean.
                self.accelerator.backward(part_loss.value * (share * self.accelerator.num_processes))
            loss += float(share * part_loss.value.detach())
            right += float(share * part_loss.right)
            weight += float(part_loss.weight)
        here = loss
        loss, right, weight = self._summed(loss, right, weight)
        self._refuse_unless_finite("loss", loss, here)
        if 0 < weight != everyone:  # some pixels are ignored
            loss, right = (everyone / weight * figure for figure in (loss, right))
            self._scale_gradients(everyone / weight)
        clip = self.config.clip or math.inf
        norm = float(self.accelerator.clip_grad_norm_(self.model.parameters(), clip))
        if self.accelerator.scaler is None:  # a scaler skips steps that are not finite
            self._refuse_unless_finite("norm of the gradients", norm, norm)
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.network.model, self.step)
        rate = max(group["lr"] for group in self.optimizer.param_groups)
        epoch = (self.step + 1) / len(self.loader)
        return lambda step, seconds: NetworkStep(step, epoch, loss, right, rate, seconds)

    def _summed(self, *numbers: float) -> tuple[float, ...]:
        """Return the sums of numbers over all processes."""
        if self.accelerator.num_processes == 1:
            return numbers
        here = torch.tensor(numbers, dtype=torch.float64, device=self.accelerator.device)
        return tuple(self.accelerator.reduce(here, "sum").tolist())

    def _scale_gradients(self, factor: float) -> None:
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(factor)

    def _refuse_unless_finite(self, name: str, value: float, here: float) -> None:
        """Raise SamplesError in all processes if a step's `value` is not finite; `here` is this process's."""
        if math.isfinite(value):
            return
        row_numbers = [] if math.isfinite(here) else self.loader.last_rows.tolist()
        samples = f"samples {', '.join(map(str, row_numbers))} of the split"
        raise SamplesError(
            f"training: the {name} of step {self.step} is {value}, on "
            f"{samples if row_numbers else 'those of another process'}. The last checkpoint in {self.out} is "
            "from before; look at these samples, or begin anew with a lower learning rate",
            row_numbers,
        )

    @override
    def save_weights(self) -> None:
        self.save_evaluated(WEIGHTS)
        if self.average is not None and not self.config.evaluate_average:
            save_model(replace(self.network, model=self.average.module), self.out / AVERAGE)

    def save_evaluated(self, name: str) -> None:
        """Write the network that is evaluated to a file of the folder; raises OSError."""
        save_model(replace(self.network, model=self.evaluated), self.out / name)

    @override
    def save(self) -> None:
        if self.writes:
            super().save()
        self.accelerator.wait_for_everyone()

    @override
    def state(self) -> dict[str, Any]:
        scaler = self.accelerator.scaler
        return {
            "model": self.network.model.state_dict(),
            "average": None if self.average is None else self.average.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "loader": self.loader.state_dict(),
        }

    @override
    def load_state(self, state: Mapping[str, Any]) -> None:
        self.network.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.module.load_state_dict(state["average"])
        load_optimizer(self.optimizer, state["optimizer"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.loader.load_state_dict(state["loader"])
