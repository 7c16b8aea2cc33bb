"""Trainings on stored views of TokenAdapt: the front doors' experiments, with half of each batch replaced."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from evidence.cells import EvidenceError
from evidence.views import FirstHalf, ViewLoader
from seitpp_models.evaluation import Batches, evaluate_store
from seitpp_models.training.devices import devices_of
from seitpp_models.training.finetuning import DOOR as FINETUNE
from seitpp_models.training.network_run import NetworkRun
from seitpp_models.training.network_training import train_network
from seitpp_models.training.optimisers import OptimiserConfig
from seitpp_models.training.pretraining import DOOR as PRETRAIN
from seitpp_models.training.runs import Experiment, TrainingResult
from seitpp_models.training.settings import DeviceSettings, LearningSettings
from seitpp_models.weights.files import WEIGHTS
from tokenstore.loading import TokenLoader
from tokenstore.networks.runs import RunOptions
from tokenstore.reading import TokenStore

__all__ = ["train_on_views"]

_DOORS = {door.command: door for door in (FINETUNE, PRETRAIN)}


def train_on_views(
    command: str,
    store: TokenStore,
    out: Path,
    views: Any,
    settings: Mapping[str, Any],
    on_step: Any = None,
) -> TrainingResult:
    """Train as `finetune` or `pretrain` do, with stored views in the second half of each batch.

    Raises EvidenceError for a network that sees another grid than that of the views, and for batches that are
    cut for accumulation, whose parts would have no halves; and what the front doors raise.
    """
    door = _DOORS[command]
    resolved = door.resolve(None, settings)
    learning = resolved.group(LearningSettings)
    if learning.accumulation != 1:
        raise EvidenceError(f"accumulation: expected 1 with stored views, found {learning.accumulation}")
    with devices_of(resolved.group(DeviceSettings)) as devices:
        experiment = door.prepare(resolved, store, str(out), devices)
        _check_grid(experiment, views)
        recipe: Any = experiment.task.recipe
        recipe.crop = FirstHalf(recipe.crop)
        run = _run(experiment, learning, views, out, devices)
        batches = Batches(learning.batch_size, settings["loader_threads"], devices.device)
        figures = train_network(
            run,
            RunOptions(resume=True),
            evaluate=lambda: evaluate_store(
                experiment.network, store, "val", measure=experiment.task.measure, batches=batches
            ),
            on_step=on_step,
        )
        network = experiment.network
        network.model.eval()
        return TrainingResult(network, out / WEIGHTS, run.step, run.seconds, figures)


def _check_grid(experiment: Experiment, views: Any) -> None:
    """Raise EvidenceError unless the network sees views of the size that they have."""
    grid, found = experiment.network.shape.grid, views[0].shape[1:]
    if grid != found:
        raise EvidenceError(f"grid_size: expected the grid of the stored views, {found}, found {grid}")


def _run(
    experiment: Experiment, learning: LearningSettings, views: Any, out: Path, devices: Accelerator
) -> NetworkRun:
    """Return the run of an experiment whose batches are half of them stored views."""
    tokens = TokenLoader(
        experiment.samples,
        learning.batch_size,
        shuffle=True,
        seed=learning.seed,
        num_threads=0,
        device=devices.device,
        pad=experiment.whole_batches,
        resident="ram",
    )
    loader: Any = ViewLoader(tokens, views)
    config = OptimiserConfig.of(learning, len(loader))
    identity = {
        "store": experiment.samples.fingerprint,
        "augment": experiment.augmentation.identity,
        "network": str(experiment.network.arguments),
        "views": str(len(views)),
    }
    return NetworkRun(config, experiment.network, experiment.task, loader, out, identity, devices)
