"""The weights of one network as the start of another."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from timm.layers import resample_abs_pos_embed
from torch import nn

from seitpp_models.errors import ModelError
from seitpp_models.networks.mtm import MaskedTokenModel
from seitpp_models.networks.vit import TokenViT
from seitpp_models.weights.files import TrainedModel, load_model
from seitpp_models.weights.official import load_official, to_official
from tokenstore.errors import Parameter
from tokenstore.format import TokenizerIdentity
from tokenstore.sources import imagenet_classes
from tokenstore.sources.base import UNKNOWN_TOKENIZER

__all__ = ["backbone_arguments", "pretrained_network", "start_from", "trained_network"]

_OWN = ".safetensors"
"""The end of the names of files of `save_model`."""
_HEAD = "head."
_HEAD_DEVIATION = 2e-5
_POSITIONS = "pos_embed"


def pretrained_network(path: Path, tokenizer: TokenizerIdentity, where: str) -> MaskedTokenModel | TokenViT:
    """Read the ViT in a file of `save_model`, or in a published checkpoint.

    `tokenizer` made the codes of the store `where`, for messages. Raises ModelError if the file cannot be
    read, is for other codes, or contains another kind of network.
    """
    if path.suffix != _OWN:
        return load_official(path)
    trained = load_model(path)
    trained.check(tokenizer, where)
    if not hasattr(trained.model, "backbone_sizes"):
        raise ModelError(
            f"{path}: expected a masked-token model or a ViT to start from, found a {trained.kind}"
        )
    network: MaskedTokenModel | TokenViT = cast(Any, trained.model)
    return network


def trained_network(path: Path | str, *, average: bool = False) -> TrainedModel:
    """Read the network in a file of `save_model`, or in a published checkpoint, with what is known of it.

    A checkpoint does not say which tokenizer's codes it takes, nor how images were prepared. A network of
    1,000 classes gets the names of ImageNet's. With `average`, the network has the average of the weights
    that a checkpoint contains too. Raises ModelError if the file cannot be read, and for an average of a file
    of `save_model`.
    """
    if Path(path).suffix == _OWN:
        if average:
            raise ModelError(
                f"{path}: expected a published checkpoint with an average of its weights, found a file of "
                "one network; a run writes its average to a file of its own"
            )
        return load_model(path)
    network = load_official(path, average=average)
    tokenizer = TokenizerIdentity(UNKNOWN_TOKENIZER)
    if isinstance(network, MaskedTokenModel):
        return TrainedModel(network, "masked", asdict(network.config), tokenizer)
    classes = network.shape.classes
    names = imagenet_classes()
    arguments = {**backbone_arguments(network), "num_classes": classes}
    return TrainedModel(network, "vit", arguments, tokenizer, names if len(names) == classes else None)


def backbone_arguments(pretrained: MaskedTokenModel | TokenViT) -> dict[str, Any]:
    """Return the arguments of `token_vit` for a ViT that can start from the weights of `pretrained`."""
    shape = pretrained.shape
    return {
        "size": "base",  # each size of which is replaced
        **pretrained.backbone_sizes(),
        "grid": shape.grid,
        "patch": shape.patch,
        "channels": shape.channels,
        "codebook_size": shape.codebook_size,
        **({"scales": shape.scales} if shape.scales else {}),
    }


@torch.no_grad()
def start_from(model: TokenViT, pretrained: MaskedTokenModel | TokenViT, *, keep_head: bool = False) -> None:
    """Copy all weights but the head's from a network of the same sizes; the head starts near zero.

    With `keep_head`, the head is copied too, from a classifier of as many classes. Positions are interpolated
    if the grids differ. Raises ModelError if a tensor is missing, or of another shape.
    """
    source = to_official(pretrained)
    if keep_head:
        _check_head(model, pretrained)
    target = {
        name: tensor for name, tensor in to_official(model).items() if keep_head or not name.startswith(_HEAD)
    }
    before, patches = pretrained.shape.patches, model.shape.patches
    if before != patches:
        source[_POSITIONS] = resample_abs_pos_embed(
            source[_POSITIONS], list(patches), list(before), num_prefix_tokens=1, antialias=False
        )
    for name, tensor in target.items():
        actual = tuple(source[name].shape) if name in source else "none"
        if actual != tuple(tensor.shape):
            raise ModelError(
                f"{name}: expected shape {tuple(tensor.shape)}, found {actual}; start from a network of the "
                "same size, patch, codebook and kind of input"
            )
    model.load_published({name: source[name] for name in target}, strict=False)
    if isinstance(model.head, nn.Linear) and not keep_head:
        nn.init.trunc_normal_(model.head.weight, std=_HEAD_DEVIATION)
        nn.init.zeros_(model.head.bias)


def _check_head(model: TokenViT, pretrained: MaskedTokenModel | TokenViT) -> None:
    """Raise ModelError unless a network is a classifier of as many classes as `model`."""
    shape = pretrained.shape
    if (shape.output, shape.classes) != (model.shape.output, model.shape.classes):
        choice = Parameter("keep_head", True)
        found = f"one of {shape.classes}" if shape.output == "class" else "a network without classes"
        raise ModelError(
            f"{choice}: expected a classifier of {model.shape.classes} classes to begin with, found {found}",
            parameters=[choice],
        )
