"""Training runs: networks that learn from the codes of a store.

Three front doors, each of which is one call for a whole run: `pretrain` trains a masked-token model without
labels, `finetune` a classifier, and `segment` a network that gives each pixel a class. Their settings are
keywords (`seitpp_models.training.settings`), a recipe (`seitpp_models.recipes`), or both. A run writes to a
folder, can be interrupted at any time, and is resumed by `resume=True`. `planned` says what a run would do.

    from seitpp_models.training import finetune
    result = finetune("photos.zarr", "runs/photos", config="finetune-cpu", epochs=10)
    result.figures["top1"]

Inside: a `Task` (`tasks`) owns its columns, augmentation, loss and evaluation; `runs` assembles a run and
`network_run` does its steps. This wing imports networks, weights and evaluation. Names are imported on use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenstore.doors import lazy_names

if TYPE_CHECKING:
    from seitpp_models.training.finetuning import finetune
    from seitpp_models.training.network_run import NetworkStep
    from seitpp_models.training.optimisers import ParameterGroup
    from seitpp_models.training.planning import PlannedRun, planned
    from seitpp_models.training.pretraining import pretrain
    from seitpp_models.training.runs import TrainingPlan, TrainingResult
    from seitpp_models.training.segmenting import segment
    from seitpp_models.training.settings import FinetuneSettings, PretrainSettings, SegmentSettings

__all__ = [
    "FinetuneSettings",
    "NetworkStep",
    "ParameterGroup",
    "PlannedRun",
    "PretrainSettings",
    "SegmentSettings",
    "TrainingPlan",
    "TrainingResult",
    "finetune",
    "planned",
    "pretrain",
    "segment",
]

_HOMES = {
    "FinetuneSettings": "settings",
    "NetworkStep": "network_run",
    "ParameterGroup": "optimisers",
    "PlannedRun": "planning",
    "PretrainSettings": "settings",
    "SegmentSettings": "settings",
    "TrainingPlan": "runs",
    "TrainingResult": "runs",
    "finetune": "finetuning",
    "planned": "planning",
    "pretrain": "pretraining",
    "segment": "segmenting",
}
"""The module of each name."""

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
