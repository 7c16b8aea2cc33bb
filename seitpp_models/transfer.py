"""Weights of one network as the beginning of another."""

from __future__ import annotations

import torch
from timm.layers import resample_abs_pos_embed
from torch import nn

from seitpp_models.errors import ModelError
from seitpp_models.mtm import MaskedTokenModel
from seitpp_models.official import from_official_names, to_official
from seitpp_models.vit import TokenViT

__all__ = ["start_from"]

_HEAD = "head."
_HEAD_DEVIATION = 2e-5
_POSITIONS = "pos_embed"


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
    if before != patches and _POSITIONS in given:
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
