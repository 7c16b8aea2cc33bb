"""Weights of one network as the beginning of another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from timm.layers import resample_abs_pos_embed
from torch import nn

from seitpp_models.errors import ModelError
from seitpp_models.networks.mtm import MaskedTokenModel
from seitpp_models.networks.vit import TokenViT
from seitpp_models.weights.files import load_model
from seitpp_models.weights.official import from_official_names, load_official, to_official
from tokenstore.format.manifest import TokenizerIdentity

__all__ = ["backbone_arguments", "pretrained_network", "start_from"]

_HEAD = "head."
_HEAD_DEVIATION = 2e-5
_POSITIONS = "pos_embed"


def pretrained_network(path: Path, tokenizer: TokenizerIdentity, where: str) -> MaskedTokenModel | TokenViT:
    """The ViT in a file of `save_model`, or in a published checkpoint, for codes of `where`.

    Raises ModelError where the file is none, is of other codes, or holds another kind of network.
    """
    if path.suffix != ".safetensors":
        return load_official(path)
    trained = load_model(path)
    trained.check(tokenizer, where)
    if not isinstance(trained.model, (MaskedTokenModel, TokenViT)):
        raise ModelError(
            f"{path}: expected a masked-token model or a ViT to begin with, found a {trained.kind}"
        )
    return trained.model


def backbone_arguments(pretrained: MaskedTokenModel | TokenViT) -> dict[str, Any]:
    """The arguments of `token_vit` for a ViT that can begin with the weights of `pretrained`."""
    shape = pretrained.shape
    masked = isinstance(pretrained, MaskedTokenModel)
    first: Any = pretrained.blocks[0]
    return {
        "size": "base",
        "embed_dim": pretrained.config.width if masked else pretrained.embed_dim,
        "depth": len(pretrained.blocks),
        "num_heads": first.attn.num_heads,
        "grid": shape.grid,
        "patch": shape.patch,
        "channels": shape.channels,
        "codebook_size": shape.codebook_size,
    }


@torch.no_grad()
def start_from(model: TokenViT, pretrained: MaskedTokenModel | TokenViT) -> None:
    """Give `model` all that is not its head from a network of the same sizes; the head begins near zero.

    Positions are interpolated where the grids differ. Raises ModelError where a tensor is missing, or of
    another shape.
    """
    given = to_official(pretrained)
    wanted = {name: tensor for name, tensor in to_official(model).items() if not name.startswith(_HEAD)}
    patches = model.patch_embed.grid_size
    if isinstance(pretrained, MaskedTokenModel):
        before = pretrained.config.patches
    else:
        before = pretrained.patch_embed.grid_size
    if before != patches:
        given[_POSITIONS] = resample_abs_pos_embed(
            given[_POSITIONS], list(patches), list(before), num_prefix_tokens=1
        )
    for name, tensor in wanted.items():
        found = tuple(given[name].shape) if name in given else "none"
        if found != tuple(tensor.shape):
            raise ModelError(
                f"{name}: expected shape {tuple(tensor.shape)}, found {found}; begin with a network of the "
                "same size, patch, codebook and kind of input"
            )
    model.load_state_dict(from_official_names({name: given[name] for name in wanted}), strict=False)
    if isinstance(model.head, nn.Linear):
        nn.init.trunc_normal_(model.head.weight, std=_HEAD_DEVIATION)
        nn.init.zeros_(model.head.bias)
