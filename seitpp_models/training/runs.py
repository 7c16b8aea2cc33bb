"""A whole training run from an experiment and its settings: steps, checkpoints, evaluations and reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from accelerate import Accelerator
from torch import nn

from seitpp_models.errors import ModelError
from seitpp_models.evaluation.on_stores import Batches, evaluate_store
from seitpp_models.training.backbones import content_of
from seitpp_models.training.network_run import WEIGHTS, NetworkRun, NetworkStep, OptimiserConfig
from seitpp_models.training.network_training import train_network
from seitpp_models.training.settings import DataSettings, LearningSettings, RunSettings, Settings
from seitpp_models.training.tasks import Task
from seitpp_models.weights.files import TrainedModel
from tokenstore.errors import Parameter
from tokenstore.loading import TokenDataset, TokenLoader
from tokenstore.networks.runs import STATE
from tokenstore.reading import TokenStore

__all__ = ["Callbacks", "Experiment", "TrainingPlan", "TrainingResult", "refuse_missing_split", "train"]


@dataclass(frozen=True)
class TrainingPlan:
    """The facts of a run that are known before its first step."""

    parameters: int
    """The number of weights of the network."""
    samples: int
    steps: int
    batch_size: int
    """The samples of a step, of all processes."""
    processes: int
    device: str
    precision: str
    """fp32, bf16 or fp16."""
    evaluate_split: str | None
    """The split that is evaluated on; None if nothing is evaluated."""
    reference: tuple[str, float] | None
    """The name and the value, in nats, of a loss to compare with."""


@dataclass(frozen=True)
class TrainingResult:
    """A finished run."""

    network: TrainedModel
    """The network with the weights that were saved."""
    weights: Path
    """The file of the network."""
    steps: int
    seconds: float
    """The seconds of training, without evaluations."""
    figures: Mapping[str, Any]
    """The figures of the last evaluation by name; empty if nothing was evaluated."""


@dataclass(frozen=True)
class Callbacks:
    """The functions that are called during a run, in the one process that writes."""

    on_begin: Callable[[TrainingPlan], None] | None = None
    on_step: Callable[[NetworkStep], None] | None = None
    on_evaluation: Callable[[int, Mapping[str, Any]], None] | None = None


@dataclass(frozen=True)
class Experiment:
    """The network of a run, its task, and the samples that it learns from."""

    network: TrainedModel
    task: Task
    store: TokenStore
    samples: TokenDataset
    adapter: str
    """The name or file of the TokenAdapt, or none."""
    identity: Mapping[str, Any]
    """The settings that decide the run beside the optimiser's; a run that goes on has to have the same."""
    held_out: npt.NDArray[np.int64] | None = None
    """The row numbers of samples of the training split that are evaluated on; None: another split is."""
    reference: tuple[str, float] | None = None
    """The name and the value of a loss to compare with."""
    whole_batches: bool = False
    """True to fill the last batch of an epoch up."""


def refuse_missing_split(settings: Settings, store: TokenStore) -> None:
    """Raise ModelError if somebody asked for an `evaluate_split` that the store does not have."""
    split = settings["evaluate_split"]
    if split not in store.splits and "evaluate_split" in settings.requested:
        parameter = Parameter("evaluate_split", split)
        raise ModelError(
            f"{parameter}: expected one of the store's splits, {', '.join(store.splits)}",
            parameters=[parameter],
        )


def train(
    experiment: Experiment, settings: Settings, out: Path, devices: Accelerator, callbacks: Callbacks
) -> TrainingResult:
    """Train, and write to the folder `out`; return the network and the last evaluation.

    Raises ModelError for a batch that processes and parts do not divide, for a warm-up as long as the run, if
    `out` holds a run that is not to be resumed, or one of other settings, and if a loss is not finite.
    """
    learning, run_settings = settings.group(LearningSettings), settings.group(RunSettings)
    data = settings.group(DataSettings)
    batch = _batch_of_a_process(learning, devices)
    loader = _loader(experiment, data, batch, learning.seed, devices)
    config = _optimiser(learning, len(loader))
    network = experiment.network
    if devices.num_processes > 1 and devices.device.type == "cuda":
        synchronised: Any = nn.SyncBatchNorm
        network = replace(network, model=synchronised.convert_sync_batchnorm(network.model))
    if run_settings.compile:
        network.model.compile()
    run = NetworkRun(config, network, experiment.task, loader, out, _identity(experiment, devices), devices)
    evaluated = _evaluated_split(experiment, data)

    def evaluate() -> Mapping[str, Any]:
        if evaluated is None:
            return {}
        return evaluate_store(
            replace(network, model=run.evaluated),
            experiment.store,
            evaluated,
            measure=experiment.task.measure,
            row_numbers=experiment.held_out,
            batches=Batches(batch, data.loader_threads, devices.device),
        )

    if run.writes and callbacks.on_begin is not None:
        callbacks.on_begin(_plan(experiment, config, devices, evaluated))
    figures = train_network(
        run,
        resume=run_settings.resume and (out / STATE).exists(),
        checkpoint_seconds=60 * run_settings.checkpoint_minutes,
        evaluate_steps=run_settings.evaluate_every * len(loader),
        evaluate=evaluate,
        on_step=callbacks.on_step,
        on_evaluation=callbacks.on_evaluation,
        reference=experiment.reference,
    )
    trained = replace(network, model=run.evaluated.eval())
    return TrainingResult(trained, out / WEIGHTS, run.step, run.seconds, figures)


def _batch_of_a_process(learning: LearningSettings, devices: Accelerator) -> int:
    processes: int = devices.num_processes
    each, rest = divmod(learning.batch_size, processes)
    if rest or each < learning.accumulation:
        parameter = Parameter("batch_size", learning.batch_size)
        raise ModelError(
            f"{parameter}: expected a multiple of {processes} processes, at least "
            f"{processes * learning.accumulation}",
            parameters=[parameter],
        )
    return each


def _loader(
    experiment: Experiment, data: DataSettings, batch: int, seed: int, devices: Accelerator
) -> TokenLoader:
    return TokenLoader(
        experiment.samples,
        batch,
        shuffle=True,
        seed=seed,
        rank=devices.process_index,
        world_size=devices.num_processes,
        num_threads=data.loader_threads,
        device=devices.device,
        pad=experiment.whole_batches,
        resident=None if data.resident == "none" else data.resident,  # type: ignore[arg-type]
    )


def _optimiser(learning: LearningSettings, steps: int) -> OptimiserConfig:
    """Return the config of a run whose epochs have `steps`."""
    return OptimiserConfig(
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
        accumulation=learning.accumulation,
        seed=learning.seed,
    )


def _identity(experiment: Experiment, devices: Accelerator) -> dict[str, str]:
    """Return what decides a run beside its config, as texts."""
    identity = {
        "precision": devices.mixed_precision,
        "adapter": content_of(experiment.adapter) or experiment.adapter,
        "store": experiment.samples.fingerprint,
        **experiment.identity,
    }
    return {name: str(value) for name, value in identity.items()}


def _evaluated_split(experiment: Experiment, data: DataSettings) -> str | None:
    """Return the split to evaluate on; None if the store has no other one and no samples are held out."""
    if experiment.held_out is not None:
        return data.split
    others = set(experiment.store.splits) - {data.split}
    return data.evaluate_split if data.evaluate_split in others else None


def _plan(
    experiment: Experiment, config: OptimiserConfig, devices: Accelerator, evaluated: str | None
) -> TrainingPlan:
    return TrainingPlan(
        parameters=sum(parameter.numel() for parameter in experiment.network.model.parameters()),
        samples=len(experiment.samples),
        steps=config.steps,
        batch_size=config.batch_size,
        processes=devices.num_processes,
        device=str(devices.device),
        precision=devices.mixed_precision.replace("no", "fp32"),
        evaluate_split=evaluated,
        reference=experiment.reference,
    )
