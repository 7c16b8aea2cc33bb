"""The plan of a run that is not made: every setting, and what a store makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from seitpp_models.training import finetuning, pretraining, segmenting
from seitpp_models.training.fitting import fitted_to
from seitpp_models.training.inputs import opened
from seitpp_models.training.optimisers import ParameterGroup
from seitpp_models.training.runs import TrainingPlan, planned_experiment
from tokenstore.reading import TokenStore

__all__ = ["PlannedRun", "planned"]

_DOORS = {door.command: door for door in (pretraining.DOOR, finetuning.DOOR, segmenting.DOOR)}


@dataclass(frozen=True)
class PlannedRun:
    """Everything that is known of a run before its first step."""

    command: str
    """The kind of run: pretrain, finetune or segment."""
    settings: Mapping[str, Any]
    """The values of all settings by their names: the defaults, the recipe's and the arguments."""
    plan: TrainingPlan | None = None
    """The sizes of the run; None without a store."""
    groups: Sequence[ParameterGroup] = ()
    """The parameters of the network, as the optimiser treats them; none without a store."""
    augmentation: str = ""
    """The steps of the augmentation, one a line; empty without a store."""


def planned(
    command: Literal["pretrain", "finetune", "segment"],
    store: str | Path | TokenStore | None = None,
    *,
    config: str | Path | None = None,
    **settings: Any,
) -> PlannedRun:
    """Return the plan of a run of `pretrain`, `finetune` or `segment`, which is not made.

        planned("finetune", config="seit-imagenet").settings["learning_rate"]

    Without a store, the settings alone are resolved. `config` and the settings are those of `command`. Raises
    what `command` raises before its first step.
    """
    door = _DOORS[command]
    resolved = door.resolve(config, settings)
    values = {name: value for name, value in resolved.values.items() if name != "resume"}
    if store is None:
        return PlannedRun(command, values)
    source, _ = opened(store)
    values["adapter"] = fitted_to(resolved, source)["adapter"]
    experiment, plan, groups = planned_experiment(door, source, resolved)
    return PlannedRun(command, values, plan, groups, str(experiment.task.recipe))
