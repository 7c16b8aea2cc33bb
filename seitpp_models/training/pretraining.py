"""The front door of masked-token pre-training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Unpack

import torch
from accelerate import Accelerator

from seitpp_models.errors import ModelError
from seitpp_models.networks.masking import MaskRatio
from seitpp_models.networks.mtm import MaskedTokenConfig, masked_token_config
from seitpp_models.networks.token_form import TokenForm, form_of
from seitpp_models.training.augmentations import (
    Augmentation,
    noise_identity,
    training_recipe,
)
from seitpp_models.training.backbones import adapter_of, network_grid, network_to_continue
from seitpp_models.training.fitting import OF_THE_ADAPTER
from seitpp_models.training.inputs import (
    augmented_vectors,
    code_entropy,
    flips_of,
    number_scales,
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
from seitpp_models.training.settings import PretrainSettings
from seitpp_models.training.tasks import MaskedTokens
from seitpp_models.weights.files import TrainedModel, build_model
from tokenstore.errors import Parameter
from tokenstore.loading import TokenDataset
from tokenstore.reading import TokenStore

__all__ = ["DOOR", "pretrain"]

_SIZES = ("model", "depth", "patch", "grid_size", "decoder_width", "decoder_depth")


def pretrain(
    store: str | Path | TokenStore,
    out: str | Path,
    *,
    config: str | Path | None = None,
    on_begin: Callable[[TrainingPlan], None] | None = None,
    on_step: Callable[[NetworkStep], None] | None = None,
    on_evaluation: Callable[[int, Mapping[str, Any]], None] | None = None,
    **settings: Unpack[PretrainSettings],
) -> TrainingResult:
    """Train a masked-token model on the codes of a store, without labels, and return it.

    SeiT++, https://arxiv.org/abs/2312.10105, section 3.1. The defaults are the published ones, for ImageNet
    on eight GPUs: no colours are changed unless `emb_noise` or `color_adapt` ask for it.

        pretrain("imagenet.zarr", "runs/mtm", config="pretrain-one-gpu")

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
        **settings: See `PretrainSettings`; None is the default.

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
    start, adapter = Parameter("start"), Parameter("adapter")
    settings.refuse_idle_noise()
    settings.refuse_idle(OF_THE_ADAPTER, str(adapter), settings["adapter"] == "none", adapter)
    settings.refuse_idle(_SIZES, f"models without {start}", settings["start"] is not None, start)


def _experiment(settings: Settings, store: TokenStore, where: str, devices: Accelerator) -> Experiment:
    form = replace(form_of(store), where=where)
    samples = training_samples(store, settings["split"], [*MaskedTokens.columns, *form.columns])
    ratio, network = _mask_ratio(settings), _network(settings, store, form, samples)
    task = _task(settings, network, ratio, store, form, devices.device)
    identity = {"noise": noise_identity(settings["noise"]), "mask": ratio, "smoothing": settings["smoothing"]}
    refuse_missing_split(settings, store)
    own, tokens = network.shape.form_of(form), network.shape.arranged(form)
    reference = ("order-0 entropy of the codes", code_entropy(samples, own))
    if form.numbers is not None:
        reference = ("mean square of the numbers", 1.0)
    augmentation = Augmentation.of(settings)
    return Experiment(network, task, store, samples, identity, augmentation, tokens, reference=reference)


def _mask_ratio(settings: Settings) -> MaskRatio:
    try:
        return MaskRatio(*(settings[f"mask_{name}"] for name in ("mean", "deviation", "low", "high")))
    except ValueError as error:
        raise ModelError(f"a masked-token model: {error}") from error


def _network(settings: Settings, store: TokenStore, form: TokenForm, samples: TokenDataset) -> TrainedModel:
    """Return the network to train: an untrained one, or the one in the file `start`.

    Raises ModelError for sizes that do not fit, and for a file of another kind of network.
    """
    path = settings["start"]
    pretrained = None if path is None else network_to_continue(path, store, form)
    if pretrained is not None and pretrained.shape.output != "codes":
        raise ModelError(
            f"{path}: expected a masked-token model to begin with, found a {type(pretrained).__name__}"
        )
    config = _new_config(settings, form, samples) if pretrained is None else pretrained.config
    network_grid(form.grid, config.patch, config.grid)
    arguments = asdict(config)
    if not config.scales:
        del arguments["scales"]
    torch.manual_seed(settings["seed"])
    model: Any = build_model("masked", arguments)
    if pretrained is not None:
        model.load_state_dict(pretrained.state_dict())
    model.label_smoothing = settings["smoothing"]
    return TrainedModel.for_store(model, "masked", arguments, store.manifest)


def _new_config(settings: Settings, form: TokenForm, samples: TokenDataset) -> MaskedTokenConfig:
    grid, patch = network_grid(form.grid, settings["patch"], settings["grid_size"])
    sizes = {name: settings[name] for name in ("depth", "decoder_width", "decoder_depth")}
    try:
        return masked_token_config(
            settings["model"],
            **_tokens_of(form, samples),
            grid=grid,
            patch=patch,
            **{name: size for name, size in sizes.items() if size is not None},
        )
    except ValueError as error:
        raise ModelError(f"a masked-token model: {error}") from error


def _tokens_of(form: TokenForm, samples: TokenDataset) -> dict[str, Any]:
    """Return the fields of a config that say what the tokens are."""
    if form.numbers is not None:
        scales = number_scales(samples, form)
        return {"codebook_size": (), "channels": form.channels_of_numbers, "scales": scales}
    if len(form.codebook_sizes) == 1:
        return {"codebook_size": form.codebook_size}
    return {"codebook_size": form.codebook_size, "channels": form.learned_channels}


def _task(
    settings: Settings,
    network: TrainedModel,
    ratio: MaskRatio,
    store: TokenStore,
    form: TokenForm,
    device: torch.device,
) -> MaskedTokens:
    model: Any = network.model
    recipe = training_recipe(
        Augmentation.of(settings),
        augmented_vectors(settings, form, network.shape),
        model.config.grid,
        gives_codes=network.shape.codebook_size is not None,
        adapter=adapter_of(settings, store, network.shape, device),
        synonyms=synonyms_of(store, form),
        symmetries=flips_of(store, form),
    )
    rows, columns = model.config.patches
    return MaskedTokens(recipe.to(device), rows * columns, ratio)


DOOR = Door("pretrain", PretrainSettings, _check, _experiment)
"""The pre-training of masked-token models."""
