"""The front door of networks that give each pixel a class."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from accelerate import Accelerator

from seitpp_models.errors import ModelError
from seitpp_models.evaluation.measures import ignored_label
from seitpp_models.networks.segmentation import TokenSegmenter
from seitpp_models.networks.token_form import TokenForm, form_of
from seitpp_models.training.augmentations import Augmentation, noise_identity, segmentation_recipe
from seitpp_models.training.backbones import adapter_of, token_vit_backbone
from seitpp_models.training.inputs import (
    augmented_vectors,
    check_masks,
    flips_of,
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
from seitpp_models.training.settings import SegmentSettings
from seitpp_models.training.tasks import Segmentation
from seitpp_models.weights.files import TrainedModel
from tokenstore.errors import ArgumentError, Parameter
from tokenstore.format import LABELS
from tokenstore.loading import TokenDataset
from tokenstore.reading import TokenStore

__all__ = ["DOOR", "segment"]


def segment(
    store: str | Path | TokenStore,
    out: str | Path,
    *,
    config: str | Path | None = None,
    on_begin: Callable[[TrainingPlan], None] | None = None,
    on_step: Callable[[NetworkStep], None] | None = None,
    on_evaluation: Callable[[int, Mapping[str, Any]], None] | None = None,
    **settings: Unpack[SegmentSettings],
) -> TrainingResult:
    """Train a network that gives each pixel of a store's label maps a class, and return it.

    The store has a column `masks`. The network sees the whole grid; `classes` is required.

        segment("streets.zarr", "runs/streets", classes=11, start="runs/mtm/model.safetensors")

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
        **settings: See `SegmentSettings`; None is the default.

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
    upernet = Parameter("head", "upernet")
    settings.refuse_idle_noise()
    settings.refuse_idle(("decoder_width",), str(upernet), settings["head"] != "upernet", upernet)


def _experiment(settings: Settings, store: TokenStore, where: str, devices: Accelerator) -> Experiment:
    if settings["classes"] is None:
        parameter = Parameter("classes")
        raise ArgumentError(
            f"expected the number of classes of the label maps, found none; give it by {parameter}",
            parameters=[parameter],
        )
    form = _form(store, where)
    samples = training_samples(store, settings["split"], [*Segmentation.columns, *form.columns])
    _refuse_small_batches(settings, devices)
    requested = settings["ignore_index"]
    ignored = ignored_label(store) if requested is None else requested
    labels = check_masks(samples, settings["classes"], ignored)
    refuse_missing_split(settings, store)
    if settings["evaluate_split"] in store.splits:
        evaluated = training_samples(store, settings["evaluate_split"], Segmentation.columns)
        labels = max(labels, check_masks(evaluated, settings["classes"], ignored))
    # subtle: an ignored label below the last one has a logit too, which is never trained
    network = _network(settings, store, form, samples, max(labels, settings["classes"]))
    task = _task(settings, network, ignored, store, form, devices)
    identity = {"ignore-index": ignored, "noise": noise_identity(settings["noise"])}
    augmentation = Augmentation.of(settings)
    tokens = network.shape.arranged(form)
    return Experiment(network, task, store, samples, identity, augmentation, tokens, whole_batches=True)


def _form(store: TokenStore, where: str) -> TokenForm:
    """Return the form of a store's tokens; raise ModelError for lists, over which no label map lies."""
    form = replace(form_of(store), where=where)
    if form.is_list:
        raise ModelError(f"{where}: expected grids (H, W) of tokens, found lists of {form.grid[1]}")
    return form


def _refuse_small_batches(settings: Settings, devices: Accelerator) -> None:
    """Raise ModelError if a process sees one sample at a time, over which UPerNet cannot normalise."""
    part = settings["batch_size"] // devices.num_processes // settings["accumulation"]
    if settings["head"] == "upernet" and part < 2:
        parameters = (
            Parameter("head", "upernet"),
            Parameter("batch_size", settings["batch_size"]),
            Parameter("head", "linear"),
        )
        raise ModelError(
            f"{parameters[0]}: expected two samples or more for each process and part, since it normalises "
            f"over them, found {parameters[1]}; give a larger one, or {parameters[2]}",
            parameters=parameters,
        )


def _network(
    settings: Settings, store: TokenStore, form: TokenForm, samples: TokenDataset, classes: int
) -> TrainedModel:
    head = {"num_classes": 0, "drop_path_rate": settings["drop_path"]}
    backbone = token_vit_backbone(settings, store, form, samples, form.grid, head)
    vit: Any = backbone.model
    arguments: dict[str, Any] = {
        "backbone": backbone.arguments,
        "classes": classes,
        "head": settings["head"],
        "width": settings["decoder_width"],
    }
    try:
        model = TokenSegmenter(vit, classes, settings["head"], width=settings["decoder_width"])
    except ValueError as error:
        parameters = Parameter("head", settings["head"]), Parameter("depth", 4), Parameter("head", "linear")
        raise ModelError(
            f"{parameters[0]}: {error}; give {parameters[1]} or more, or {parameters[2]}",
            parameters=parameters,
        ) from error
    trained = TrainedModel.for_store(model, "segmenter", arguments, store.manifest)
    return replace(trained, labels=names_of_masks(store, classes))


def names_of_masks(store: TokenStore, classes: int) -> tuple[str, ...] | None:
    """Return a name for each class of the label maps; None where the store's names are those of labels."""
    names = store.class_names
    if names is None or any(LABELS in store[split].columns for split in store.splits):
        return None
    return (*names, *map(str, range(len(names), classes)))[:classes]


def _task(
    settings: Settings,
    network: TrainedModel,
    ignored: int,
    store: TokenStore,
    form: TokenForm,
    devices: Accelerator,
) -> Segmentation:
    recipe = segmentation_recipe(
        Augmentation.of(settings),
        augmented_vectors(settings, form, network.shape),
        form.grid,
        gives_codes=network.shape.codebook_size is not None,
        ignore_index=ignored,
        adapter=adapter_of(settings, store, network.shape, devices.device),
        symmetries=flips_of(store, form),
    )
    return Segmentation(recipe.to(devices.device), ignored)


DOOR = Door("segment", SegmentSettings, _check, _experiment)
"""The training of segmenters."""
