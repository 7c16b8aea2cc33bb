"""A whole training run from an experiment and its settings: steps, checkpoints, evaluations and reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from accelerate import Accelerator
from torch import nn

from seitpp_models.errors import ModelError
from seitpp_models.evaluation.on_stores import Batches, evaluate_store
from seitpp_models.networks.token_form import ArrangedTokens
from seitpp_models.training.augmentations import Augmentation
from seitpp_models.training.backbones import content_of
from seitpp_models.training.devices import devices_of, precision_of
from seitpp_models.training.fitting import fitted_to
from seitpp_models.training.inputs import opened
from seitpp_models.training.kept_weights import WhatToKeep
from seitpp_models.training.network_run import WEIGHTS, NetworkRun, NetworkStep
from seitpp_models.training.network_training import train_network
from seitpp_models.training.optimisers import OptimiserConfig, ParameterGroup, groups_of, optimiser_of
from seitpp_models.training.records import RunRecord
from seitpp_models.training.resolving import Settings, resolve
from seitpp_models.training.settings import (
    DataSettings,
    DeviceSettings,
    LearningSettings,
    RunSettings,
)
from seitpp_models.training.tasks import Task
from seitpp_models.weights.files import TrainedModel
from tokenstore.augment import EmbNoise, ExactFlip, TokenVectors
from tokenstore.errors import Parameter, did_you_mean
from tokenstore.format import NO_SYMMETRIES
from tokenstore.loading import TokenDataset, TokenLoader
from tokenstore.networks.runs import RunOptions
from tokenstore.reading import TokenStore
from tokenstore.sources import Note

__all__ = [
    "Callbacks",
    "Door",
    "Experiment",
    "TrainingPlan",
    "TrainingResult",
    "planned_experiment",
    "refuse_missing_split",
    "run_experiment",
]


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
    notes: Sequence[str] = ()
    """Sentences on what the store decides: the strength of Emb-Noise, the samples that are evaluated on."""


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
    identity: Mapping[str, Any]
    """The settings of the task that decide the run, by name; a resumed run must have equal ones."""
    augmentation: Augmentation
    """The augmentation, of which the record of the run says what was on."""
    tokens: ArrangedTokens
    """The module from the store's codes to the tokens that the network takes."""
    held_out: npt.NDArray[np.int64] | None = None
    """The row numbers of the training split to evaluate on; None to evaluate on another split."""
    reference: tuple[str, float] | None = None
    """The name and the value of a loss to compare with."""
    whole_batches: bool = False
    """True to fill up the last batch of an epoch."""


@dataclass(frozen=True)
class Door:
    """A kind of training run: its name, its settings, and the function that prepares its experiment."""

    command: str
    kinds: type[Any]
    """The TypedDict of the settings."""
    check: Callable[[Settings], None]
    """The function that raises ArgumentError for settings that contradict each other."""
    prepare: Callable[[Settings, TokenStore, str, Accelerator], Experiment]
    """The function from settings, a store, its name for messages and devices to an experiment."""

    def resolve(self, config: str | Path | None, arguments: Mapping[str, Any]) -> Settings:
        """Return the settings of a run; raises what `resolving.resolve` and `check` raise."""
        resolved = resolve(self.command, self.kinds, config, arguments)
        self.check(resolved)
        return resolved


def refuse_missing_split(settings: Settings, store: TokenStore) -> None:
    """Raise ModelError if the caller asked for an `evaluate_split` that the store does not have."""
    split = settings["evaluate_split"]
    if split not in store.splits and "evaluate_split" in settings.requested:
        parameter = Parameter("evaluate_split", split)
        raise ModelError(
            f"{parameter}: expected one of the store's splits, {', '.join(store.splits)}"
            f"{did_you_mean(split, store.splits)}",
            parameters=[parameter],
        )


def run_experiment(
    door: Door,
    store: str | Path | TokenStore,
    out: str | Path,
    settings: Settings,
    callbacks: Callbacks,
) -> TrainingResult:
    """Open a store, prepare an experiment on it, and train; write to the folder `out` and return the result.

    Raises the errors of `door.prepare`; StoreError if there is no store; ModelError for devices that cannot
    be used, while another run of this process is under way, for a batch that processes and parts do not
    divide, a warm-up as long as the run, a loss that is not finite, and if `out` holds a run that is not to
    be resumed, or one of other settings.
    """
    with devices_of(settings.group(DeviceSettings)) as devices:
        source, where = opened(store)
        settings = fitted_to(settings, source)
        return _train(door.prepare(settings, source, where, devices), settings, Path(out), devices, callbacks)


def _train(
    experiment: Experiment, settings: Settings, out: Path, devices: Accelerator, callbacks: Callbacks
) -> TrainingResult:
    learning, run_settings = settings.group(LearningSettings), settings.group(RunSettings)
    data = settings.group(DataSettings)
    batch = _batch_of_a_process(learning, devices)
    loader = _loader(experiment, data, batch, learning.seed, devices)
    config = OptimiserConfig.of(learning, len(loader))
    network = experiment.network
    if devices.num_processes > 1 and devices.device.type == "cuda":
        synchronised: Any = nn.SyncBatchNorm
        network = replace(network, model=synchronised.convert_sync_batchnorm(network.model))
    if run_settings.compile:
        network.model.compile()
    identity = _identity(experiment, settings, devices)
    record = RunRecord.of(
        settings,
        precision=precision_of(devices),
        store=experiment.store.files.storage.url,
        fingerprint=experiment.samples.fingerprint,
        processes=devices.num_processes,
        facts=_facts(experiment, settings),
    )
    run = NetworkRun(config, network, experiment.task, loader, out, identity, devices, record)
    evaluated = _evaluated_split(experiment, data)
    batches = Batches(batch, data.loader_threads, devices.device)
    options = RunOptions(
        run_settings.resume, 60 * run_settings.checkpoint_minutes, run_settings.evaluate_every * len(loader)
    )
    with run.locked():
        if run.writes and callbacks.on_begin is not None:
            callbacks.on_begin(_plan(experiment, config, devices, settings, evaluated))
        figures = train_network(
            run,
            options,
            evaluate=lambda: {} if evaluated is None else _figures(run, experiment, evaluated, batches),
            on_step=callbacks.on_step,
            on_evaluation=callbacks.on_evaluation,
            reference=experiment.reference,
            keep=WhatToKeep(
                run_settings.keep_best, run_settings.keep_last, run_settings.keep_every, len(loader)
            ),
        )
    trained = replace(network, model=run.evaluated.eval())
    return TrainingResult(trained, out / WEIGHTS, run.step, run.seconds, figures)


def _figures(run: NetworkRun, experiment: Experiment, split: str, batches: Batches) -> Mapping[str, Any]:
    """Return the figures of a run's network on a split; of a run with an average those of both."""

    def of(model: nn.Module) -> dict[str, Any]:
        return evaluate_store(
            replace(run.network, model=model),
            experiment.store,
            split,
            measure=experiment.task.measure,
            row_numbers=experiment.held_out,
            batches=batches,
        )

    figures = of(run.evaluated)
    if run.beside is None:
        return figures
    name, model = run.beside
    others = {f"{name}_{figure}": value for figure, value in of(model).items() if isinstance(value, float)}
    return {**figures, **others}


def planned_experiment(
    door: Door, store: str | Path | TokenStore, settings: Settings
) -> tuple[Experiment, TrainingPlan, Sequence[ParameterGroup]]:
    """Prepare an experiment, and return it with the plan of its run and the optimiser's groups of parameters.

    Nothing is trained or written. Raises what `run_experiment` raises before the first step.
    """
    with devices_of(settings.group(DeviceSettings)) as devices:
        source, where = opened(store)
        settings = fitted_to(settings, source)
        experiment = door.prepare(settings, source, where, devices)
        learning, data = settings.group(LearningSettings), settings.group(DataSettings)
        batch = _batch_of_a_process(learning, devices)
        loader = _loader(experiment, replace(data, resident="none"), batch, learning.seed, devices)
        config = OptimiserConfig.of(learning, len(loader))
        plan = _plan(experiment, config, devices, settings, _evaluated_split(experiment, data))
        model = experiment.network.model
        return experiment, plan, groups_of(optimiser_of(config, model), model)


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
        batch_transform=None if experiment.tokens.is_identity else experiment.tokens.of_batch,
        resident=None if data.resident == "none" else data.resident,  # type: ignore[arg-type]
    )


def _facts(experiment: Experiment, settings: Settings) -> dict[str, Any]:
    """Return what the record of a run says beside its settings: the network, and what augments."""
    network, recipe = experiment.network, experiment.task.recipe
    adapter = None if getattr(recipe, "adapter", None) is None else settings["adapter"]
    symmetries = experiment.store.symmetries if _flips_exactly(experiment.task) else NO_SYMMETRIES
    return {
        "network": {"kind": network.kind, "arguments": network.arguments},
        "augmentation": experiment.augmentation.facts(adapter, symmetries),
    }


def _identity(experiment: Experiment, settings: Settings, devices: Accelerator) -> dict[str, str]:
    """Return the settings and inputs that decide a run beside its config, as texts by name."""
    identity = {
        "precision": devices.mixed_precision,
        "adapter": content_of(settings["adapter"]) or settings["adapter"],
        "store": experiment.samples.fingerprint,
        "network": experiment.network.arguments,
        "from": content_of(settings["start"]),
        "augment": experiment.augmentation.identity,
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
    experiment: Experiment,
    config: OptimiserConfig,
    devices: Accelerator,
    settings: Settings,
    evaluated: str | None,
) -> TrainingPlan:
    evaluation = _evaluation_notes(experiment, settings.group(DataSettings), evaluated)
    return TrainingPlan(
        parameters=sum(parameter.numel() for parameter in experiment.network.model.parameters()),
        samples=len(experiment.samples),
        steps=config.steps,
        batch_size=config.batch_size,
        processes=devices.num_processes,
        device=str(devices.device),
        precision=precision_of(devices),
        evaluate_split=evaluated,
        reference=experiment.reference,
        notes=(*settings.notes, *_noise_notes(experiment), *evaluation),
    )


def _evaluation_notes(experiment: Experiment, data: DataSettings, evaluated: str | None) -> list[Note]:
    """Return a note if a run evaluates on samples that it holds out, or on nothing, with the other splits."""
    if evaluated is not None and experiment.held_out is None:
        return []
    splits, requested = list(experiment.store.splits), data.evaluate_split
    if experiment.held_out is None:
        text = "nothing is evaluated"
    else:
        text = f"{len(experiment.held_out):,} samples of split {data.split} are held out to evaluate on"
    if requested in splits:
        text += f", as the run trains on split {requested!r}"
    else:
        text += f", as the store has no split {requested!r}"
    others = [split for split in splits if split != data.split]
    ways = [Parameter("evaluate_split", split) for split in others]
    if others:
        text += f"; other splits are {', '.join(others)}: {ways[0]} evaluates on {others[0]}"
    return [Note(text, ways[:1])]


def _flips_exactly(task: Task) -> bool:
    """Return True if the recipe of a task flips codes by a symmetry of theirs."""
    return any(isinstance(module, ExactFlip) for module in task.recipe.modules())


def _noise_notes(experiment: Experiment) -> list[str]:
    """Return a note on the strength of Emb-Noise, if the augmentation has some."""
    modules = list(experiment.task.recipe.modules())
    strengths = {module.strength for module in modules if isinstance(module, EmbNoise)}
    deviation = next((module.deviation for module in modules if isinstance(module, TokenVectors)), 0.0)
    return [
        f"Emb-Noise of strength {strength:.4g}; the numbers of the codebook's vectors have a standard "
        f"deviation of {deviation:.4g}"
        for strength in strengths
    ]
