"""The front door of classifiers: fine-tuning a pre-trained network, or training one from scratch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from torch import nn

from seitpp_models.errors import ModelError
from seitpp_models.networks.token_form import TokenForm, form_of
from seitpp_models.training.augmentations import (
    Augmentation,
    noise_identity,
    training_recipe,
)
from seitpp_models.training.backbones import adapter_of, classifier_backbone
from seitpp_models.training.fitting import OF_THE_ADAPTER
from seitpp_models.training.inputs import (
    augmented_vectors,
    check_labels,
    flips_of,
    share_of,
    synonyms_of,
    training_samples,
)
from seitpp_models.training.network_run import NetworkStep
from seitpp_models.training.resolving import Settings
from seitpp_models.training.runs import (
    Callbacks,
    Door,
    Experiment,
    TrainingPlan,
    TrainingResult,
    refuse_missing_split,
    run_experiment,
)
from seitpp_models.training.settings import FinetuneSettings
from seitpp_models.training.tasks import Classification
from seitpp_models.weights.files import TrainedModel
from tokenstore.errors import Parameter
from tokenstore.loading import TokenDataset
from tokenstore.reading import TokenStore

__all__ = ["DOOR", "finetune"]

_SPARSE_CLASSES = 2**16
"""The number of classes up to which a network is made for whatever labels there are."""
_SPARSE_FACTOR = 16
"""The classes of a network for each distinct label beyond which the labels are taken for other numbers."""
_ATTENTION = ".attn."
"""The part of the names of attention's parameters."""
_TRAINED_TOO = ("pos_embed", "head")
"""The first parts of the names of parameters that are trained beside attention."""


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

    The defaults are the published ones of SeiT++, https://arxiv.org/abs/2312.10105, but that Emb-Noise has
    the standard deviation of the store's codebook. From scratch, with `input="vectors"`, it is plain SeiT.

        finetune("imagenet.zarr", "runs/tuned", start="runs/mtm/model.safetensors")

    Args:
        store: A token store: an open one, or its path or fsspec URL.
        out: The folder of the run. It gets `model.safetensors` (the network, see `load_model`), `config.yaml`
            (all settings), `state.pt` (the checkpoint to resume from), `log.jsonl` (a line a step),
            `evaluations.jsonl`, `curve.png` and TensorBoard's files in `tensorboard/`.
        config: A recipe: the name of a packaged one, a YAML file, or `config.yaml` of a run, which it
            repeats. Arguments override its settings.
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
    callbacks = Callbacks(on_begin, on_step, on_evaluation)
    return run_experiment(DOOR, store, out, DOOR.resolve(config, settings), callbacks)


def _check(settings: Settings) -> None:
    adapter = Parameter("adapter")
    settings.refuse_idle_noise()
    settings.refuse_idle(OF_THE_ADAPTER, str(adapter), settings["adapter"] == "none", adapter)
    start = Parameter("start")
    settings.refuse_idle(("keep_head",), str(start), settings["start"] is None, start)


def _experiment(settings: Settings, store: TokenStore, where: str, devices: Accelerator) -> Experiment:
    form = replace(form_of(store), where=where)
    samples = training_samples(store, settings["split"], [*Classification.columns, *form.columns])
    classes = settings["classes"] or _classes_of(store, samples)
    check_labels(samples, classes)
    samples, held_out = _divided(settings, store, samples, classes)
    samples = share_of(samples, settings["share"], settings["share_seed"])
    network = _network(settings, store, form, samples, classes)
    task = _task(settings, network, classes, store, form, devices.device)
    identity = {
        "noise": noise_identity(settings["noise"]),
        "share": (settings["share"], settings["share_seed"]),
        "smoothing": settings["smoothing"],
        "keep_head": settings["keep_head"],
    }
    augmentation = Augmentation.of(settings)
    tokens = network.shape.arranged(form)
    return Experiment(network, task, store, samples, identity, augmentation, tokens, held_out=held_out)


def _classes_of(store: TokenStore, samples: TokenDataset) -> int:
    """Return the number of classes of a store, by its names of them or else by its labels.

    Raises ModelError where labels are much larger than there are distinct ones.
    """
    names, labels = store.class_names, samples.rows.labels
    if names is not None or labels is None:
        return len(names or ())
    classes, distinct = int(labels.max()) + 1, len(np.unique(labels))
    if classes > max(_SPARSE_CLASSES, _SPARSE_FACTOR * distinct):
        parameter = Parameter("classes")
        raise ModelError(
            f"{samples!r}: expected labels numbered from 0, found labels up to {classes - 1:,}, but only "
            f"{distinct:,} distinct. Convert again with labels numbered from 0, or give {parameter} for a "
            "network with so many classes",
            parameters=[parameter],
        )
    return classes


def _divided(
    settings: Settings, store: TokenStore, samples: TokenDataset, classes: int
) -> tuple[TokenDataset, npt.NDArray[np.int64] | None]:
    """Return the samples to train on, and the row numbers of those held out of the same split.

    None are held out if the store has another split to evaluate on. The samples held out are the same for
    every `seed` and `share`.
    """
    split = settings["evaluate_split"]
    if split in store.splits and split != settings["split"]:
        parameter = Parameter("evaluate_split")
        settings.refuse_idle(("held_out",), f"stores without {parameter}", True, parameter)
        check_labels(training_samples(store, split, Classification.columns), classes)
        return samples, None
    refuse_missing_split(settings, store)
    if not settings["held_out"]:
        return samples, None
    samples, others = samples.split(settings["held_out"])
    return samples, others.indices


def _network(
    settings: Settings, store: TokenStore, form: TokenForm, samples: TokenDataset, classes: int
) -> TrainedModel:
    head = {"num_classes": classes, "drop_path_rate": settings["drop_path"]}
    network = classifier_backbone(settings, store, form, samples, settings["grid_size"], head)
    if settings["attn_only"]:
        _freeze_all_but_attention(network.model)
    names = store.class_names
    return replace(network, labels=names if names is not None and len(names) == classes else None)


def _freeze_all_but_attention(model: nn.Module) -> None:
    """Take the gradients of all parameters but those of attention, positions and head.

    Raises ModelError for a network without blocks of attention.
    """
    parameters = dict(model.named_parameters())
    if not any(_ATTENTION in name for name in parameters):
        parameter = Parameter("attn_only", True)
        raise ModelError(
            f"{parameter}: expected a ViT, whose blocks have attention, found a {type(model).__name__}",
            parameters=[parameter],
        )
    for name, weights in parameters.items():
        weights.requires_grad_(_ATTENTION in name or name.split(".")[0] in _TRAINED_TOO)


def _task(
    settings: Settings,
    network: TrainedModel,
    classes: int,
    store: TokenStore,
    form: TokenForm,
    device: torch.device,
) -> Classification:
    grid = network.shape.grid
    assert grid is not None  # every backbone is built for one
    recipe = training_recipe(
        Augmentation.of(settings),
        augmented_vectors(settings, form, network.shape),
        grid,
        gives_codes=network.shape.codebook_size is not None,
        classes=classes,
        adapter=adapter_of(settings, store, network.shape, device),
        synonyms=synonyms_of(store, form),
        symmetries=flips_of(store, form),
    )
    return Classification(recipe.to(device), settings["smoothing"], settings["loss"])


DOOR = Door("finetune", FinetuneSettings, _check, _experiment)
"""The training of classifiers."""
