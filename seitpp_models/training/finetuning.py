"""The front door of classifiers: fine-tuning a pre-trained network, or training one from scratch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt
import torch

from seitpp_models.training.augmentations import training_recipe
from seitpp_models.training.backbones import adapter_of, classifier_backbone, content_of
from seitpp_models.training.devices import devices_of
from seitpp_models.training.inputs import (
    check_labels,
    codebook_of,
    opened,
    share_of,
    training_samples,
)
from seitpp_models.training.network_run import NetworkStep
from seitpp_models.training.runs import (
    Callbacks,
    Experiment,
    TrainingPlan,
    TrainingResult,
    refuse_missing_split,
    train,
)
from seitpp_models.training.settings import DeviceSettings, FinetuneSettings, Settings, resolve
from seitpp_models.training.tasks import Classification
from seitpp_models.weights.files import TrainedModel
from tokenstore.errors import Parameter
from tokenstore.loading import TokenDataset
from tokenstore.reading import TokenStore

__all__ = ["finetune"]


def finetune(
    store: str | Path | TokenStore,
    out: str | Path,
    *,
    config: str | Path | None = None,
    on_begin: Callable[[TrainingPlan], None] | None = None,
    on_step: Callable[[NetworkStep], None] | None = None,
    on_evaluation: Callable[[int, Mapping[str, Any]], None] | None = None,
    **settings: Unpack[FinetuneSettings],
) -> TrainingResult:
    """Train a classifier on the labels of a store, from pre-trained weights or from scratch, and return it.

    The defaults are the published ones of SeiT++, https://arxiv.org/abs/2312.10105, but that Emb-Noise is as
    strong as the store's codebook. From scratch, with `input="vectors"`, it is plain SeiT.

        finetune("imagenet.zarr", "runs/tuned", start="runs/mtm/model.safetensors")

    Args:
        store: A token store: an open one, or its path or fsspec URL.
        out: The folder of the run. It gets `model.safetensors` (the network, see `load_model`), `state.pt`
            (the checkpoint to resume from), `log.jsonl` (a line a step), `evaluations.jsonl`, `curve.png`
            and TensorBoard's files in `tensorboard/`.
        config: A recipe: the name of a packaged one, or a YAML file. Arguments override its settings.
        on_begin: Called once, before the first step, with the plan of the run. Of several processes, the one
            that writes makes this call and those below.
        on_step: Called after each step with its loss. An exception in it ends the run.
        on_evaluation: Called after each evaluation with the number of steps done and the figures by name.
        **settings: See `FinetuneSettings`; None is the default.

    Raises:
        ArgumentError: A setting is out of range or has no effect here, or `config` cannot be read.
        ModelError: Store, settings and network do not fit each other; `out` holds a run that is not to be
            resumed, or one of other settings; or a loss is not finite.
        StoreError: The store, or the split to train on, does not exist.
        KeyboardInterrupt: After Ctrl-C or SIGTERM; the steps done are saved.
    """
    chosen = resolve("finetune", FinetuneSettings, config, settings)
    plain = Parameter("augment", "none")
    chosen.refuse_idle(("noise",), "augmentation", chosen["augment"] == "none")
    chosen.refuse_idle(("smoothing",), str(plain), chosen["augment"] != "none", plain)
    with devices_of(chosen.group(DeviceSettings)) as devices:
        source, where = opened(store)
        samples = training_samples(source, chosen["split"], Classification.columns)
        classes = chosen["classes"] or _classes_of(source, samples)
        check_labels(samples, classes)
        samples, held_out = _divided(chosen, source, samples, classes)
        samples = share_of(samples, chosen["share"], chosen["share_seed"])
        network = _network(chosen, source, where, classes)
        task = _task(chosen, network, classes, source, devices.device)
        identity = {
            "network": network.arguments,
            "from": content_of(chosen["start"]),
            "augment": chosen["augment"],
            "noise": chosen["noise"],
            "share": (chosen["share"], chosen["share_seed"]),
            "smoothing": chosen["smoothing"],
        }
        experiment = Experiment(
            network, task, source, samples, chosen["adapter"], identity, held_out=held_out
        )
        return train(experiment, chosen, Path(out), devices, Callbacks(on_begin, on_step, on_evaluation))


def _classes_of(store: TokenStore, samples: TokenDataset) -> int:
    """Return the number of classes of a store, by its names of them or else by its labels."""
    names = store.class_names
    return int(samples.rows.labels.max()) + 1 if names is None else len(names)  # type: ignore[union-attr]


def _divided(
    chosen: Settings, store: TokenStore, samples: TokenDataset, classes: int
) -> tuple[TokenDataset, npt.NDArray[np.int64] | None]:
    """Return the samples to train on, and the row numbers of those held out of the same split.

    None are held out if the store has another split to evaluate on. The samples held out are the same for
    every `seed` and `share`.
    """
    split = chosen["evaluate_split"]
    if split in store.splits and split != chosen["split"]:
        parameter = Parameter("evaluate_split")
        chosen.refuse_idle(("held_out",), f"stores without {parameter}", True, parameter)
        check_labels(training_samples(store, split, Classification.columns), classes)
        return samples, None
    refuse_missing_split(chosen, store)
    if not chosen["held_out"]:
        return samples, None
    samples, others = samples.split(chosen["held_out"])
    return samples, others.indices


def _network(chosen: Settings, store: TokenStore, where: str, classes: int) -> TrainedModel:
    head = {"num_classes": classes, "drop_path_rate": chosen["drop_path"]}
    network = classifier_backbone(chosen, store, where, chosen["grid_size"], head)
    names = store.class_names
    return replace(network, labels=names if names is not None and len(names) == classes else None)


def _task(
    chosen: Settings, network: TrainedModel, classes: int, store: TokenStore, device: torch.device
) -> Classification:
    grid = network.shape.grid
    assert grid is not None  # since every backbone is built for one
    recipe = training_recipe(
        chosen["augment"],
        codebook_of(store),
        grid,
        gives_codes=network.shape.codebook_size is not None,
        classes=classes,
        adapter=adapter_of(chosen, store, device, used=chosen["augment"] == "finetune"),
        noise=chosen["noise"],
    )
    return Classification(recipe.to(device), chosen["smoothing"])
