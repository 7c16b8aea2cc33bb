"""The networks that runs begin with: untrained ones for a store's codes, and those in files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from seitpp_models.errors import ModelError
from seitpp_models.networks.mtm import MaskedTokenModel
from seitpp_models.networks.shape import NetworkShape
from seitpp_models.networks.sizes import SIZES
from seitpp_models.networks.store_sizes import seen_grid
from seitpp_models.networks.token_form import TokenForm
from seitpp_models.networks.vit import TokenViT
from seitpp_models.training.inputs import input_arguments
from seitpp_models.training.resolving import Settings
from seitpp_models.training.settings import BackboneSettings
from seitpp_models.weights.files import TrainedModel, build_model
from seitpp_models.weights.transfer import backbone_arguments, pretrained_network, start_from
from tokenstore.augment import TokenAdapt, load_adapter
from tokenstore.errors import Parameter
from tokenstore.loading import TokenDataset
from tokenstore.reading import TokenStore

__all__ = [
    "adapter_of",
    "classifier_backbone",
    "content_of",
    "network_grid",
    "network_to_continue",
    "token_vit_backbone",
]


def network_grid(
    store_grid: tuple[int, int], patch: int | None, size: int | tuple[int, int] | None
) -> tuple[tuple[int, int], int]:
    """Return the grid (H, W) that a network sees of a store's, `size` or the usual part, and its patch.

    Raises ModelError if it is larger than the store's, or if patches do not fill it.
    """
    grid, patch = seen_grid(store_grid, patch)
    if size is not None:
        grid = (size, size) if isinstance(size, int) else size
    if any(side > most or side % patch for side, most in zip(grid, store_grid, strict=True)):
        parameters = Parameter("grid_size"), Parameter("patch")
        raise ModelError(
            f"{parameters[0]}, {parameters[1]}: expected whole patches within the store's grid of "
            f"{store_grid}, found {grid} in patches of {patch}",
            parameters=parameters,
        )
    return grid, patch


def network_to_continue(path: Path, store: TokenStore, form: TokenForm) -> MaskedTokenModel | TokenViT:
    """Return the network in a file to begin with, for the tokens of a store, of a form.

    Raises ModelError if the network was trained on other codes than the store's.
    """
    network = pretrained_network(path, store.manifest.tokenizer, form.where)
    codes = network.shape.codebook_size
    own = form.of_whole_codes().codebook_size if isinstance(codes, int) else form.codebook_size
    if codes not in (None, own):
        raise ModelError(
            f"{form.where}: expected a store of {codes} codes, which {path} was trained on, found {own}"
        )
    return network


def classifier_backbone(
    settings: Settings,
    store: TokenStore,
    form: TokenForm,
    samples: TokenDataset,
    grid_size: int | None,
    head: Mapping[str, Any],
) -> TrainedModel:
    """Return a classifier to train: a ViT of this package, or a timm model by its name.

    The network takes tokens of a `form`, of which `samples` give the scales of numbers. `head` are the
    arguments of the head and the like. Raises ModelError for a name that timm does not know.
    """
    sizes = settings.group(BackboneSettings)
    if sizes.start is not None or sizes.model in SIZES:
        return token_vit_backbone(settings, store, form, samples, grid_size, head)
    settings.refuse_idle(("depth", "patch"), "ViTs of this package", True)
    torch.manual_seed(sizes.seed)
    taken = input_arguments(settings, form, samples)
    grid, _ = network_grid(form.grid, sizes.patch, grid_size)
    arguments = {"name": sizes.model, "channels": taken["channels"], "grid": grid, **head}
    if not arguments["drop_path_rate"]:
        del arguments["drop_path_rate"]  # some backbones have no such argument
    arguments |= taken
    return TrainedModel.for_store(build_model("timm", arguments), "timm", arguments, store.manifest)


def token_vit_backbone(
    settings: Settings,
    store: TokenStore,
    form: TokenForm,
    samples: TokenDataset,
    size: int | tuple[int, int] | None,
    head: Mapping[str, Any],
) -> TrainedModel:
    """Return a TokenViT to train: untrained, or with the weights in the file `start`.

    `size` is the grid that the network sees, by default the usual part; `head` are the arguments of the head
    and the like. Raises ModelError for another model than a ViT, and for a file of other codes.
    """
    sizes = settings.group(BackboneSettings)
    start = Parameter("start")
    torch.manual_seed(sizes.seed)
    pretrained = None if sizes.start is None else network_to_continue(sizes.start, store, form)
    settings.refuse_idle(
        ("model", "depth", "patch", "input"),
        f"networks from scratch, without {start}",
        pretrained is not None,
        start,
    )
    settings.refuse_idle(
        ("combination",),
        f"networks from scratch or of codes, without {start}",
        pretrained is not None and pretrained.shape.codebook_size is None,
        start,
    )
    if pretrained is not None:
        arguments = backbone_arguments(pretrained)
        if size is None and all(
            side <= most for side, most in zip(arguments["grid"], form.grid, strict=True)
        ):
            size = arguments["grid"]
        grid, _ = network_grid(form.grid, arguments["patch"], size)
    elif sizes.model in SIZES:
        grid, patch = network_grid(form.grid, sizes.patch, size)
        arguments = {"size": sizes.model, "patch": patch, **input_arguments(settings, form, samples)}
        if sizes.depth is not None:
            arguments["depth"] = sizes.depth
    else:
        parameter = Parameter("model", sizes.model)
        raise ModelError(
            f"{parameter}: expected a ViT to segment, {', '.join(SIZES)}", parameters=[parameter]
        )
    arguments = {**arguments, "grid": grid, **head}
    model: Any = build_model("vit", arguments)
    if pretrained is not None:
        start_from(model, pretrained, keep_head=settings.values.get("keep_head", False))
    return TrainedModel.for_store(model, "vit", arguments, store.manifest)


def adapter_of(
    settings: Settings, store: TokenStore, shape: NetworkShape, device: torch.device
) -> TokenAdapt | None:
    """Return the TokenAdapt that augments, on a device; None for the setting "none".

    An adapter of numbers takes them in the scales of a network of `shape`. Raises ModelError if there is no
    augmentation, AdapterError for an adapter of another tokenizer.
    """
    name = settings["adapter"]
    if name == "none":
        return None
    if settings["augment"] == "none":
        parameters = Parameter("adapter", name), Parameter("augment", settings["augment"])
        raise ModelError(f"{parameters[0]}: expected none with {parameters[1]}", parameters=parameters)
    adapter = load_adapter(name, tokenizer=store.manifest.tokenizer)
    return (adapter.scaled_to(shape.scales) if shape.scales else adapter).to(device)


def content_of(path: Path | str | None) -> str | None:
    """Return a digest of a file's content; None for no path, and if the path has no file."""
    if path is None or not Path(path).is_file():
        return None
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
