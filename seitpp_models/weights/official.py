"""Checkpoints of SeiT and SeiT++ to networks of this package, and back: names and shapes, strictly.

SeiT, https://arxiv.org/abs/2303.11114; SeiT++, https://arxiv.org/abs/2312.10105.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from seitpp_models.errors import ModelError
from seitpp_models.networks.mtm import MaskedTokenConfig, MaskedTokenModel
from seitpp_models.networks.vit import TokenViT
from tokenstore.augment.token_adapt import ADAPTER_PARTS
from tokenstore.errors import TokenstoreError
from tokenstore.networks.checkpoints import read_checkpoint
from tokenstore.networks.transformer import HEAD_WIDTH, sin_cos_table

__all__ = ["from_official", "from_official_names", "load_official", "to_official"]

_UNUSED = "decoder_pos_embed"
"""A fixed table that published MTM checkpoints hold beside the learned one, which is what is added."""
_RENAMED = {"fc_norm.": "norm.", "patch_embed.token_emb.": "token_emb."}
"""Of a TokenViT: timm's names, and the published ones."""
_DECODER_HEADS = 16


def load_official(path: Path | str) -> TokenViT | MaskedTokenModel:
    """The network in a published checkpoint: supervised SeiT, MTM pre-training, or MTM fine-tuning.

    In eval mode. TokenAdapt's f and g, which some hold too, are `tokenstore.augment.adapters.load_adapter`'s.
    Nothing in the file is executed. Raises ModelError where a tensor is missing, unknown or of another shape.
    """
    try:
        found = read_checkpoint(Path(path), of_runs=True)
        tensors = {name: tensor for name, tensor in found.items() if isinstance(tensor, Tensor)}
        return from_official(tensors)
    except (TokenstoreError, OSError, ValueError) as error:
        raise ModelError(f"{path}: expected a checkpoint of SeiT or SeiT++: {error}") from error


def from_official(tensors: Mapping[str, Tensor]) -> TokenViT | MaskedTokenModel:
    """The network of tensors by their published names; see `load_official`."""
    given = {
        name: tensor
        for name, tensor in tensors.items()
        if not name.startswith(ADAPTER_PARTS) and name != _UNUSED
    }
    try:
        model = _masked(given) if "mlm_layer.bias" in given else _vit(given)
    except (KeyError, IndexError, ZeroDivisionError) as error:
        raise ModelError(f"found no tensor {error}, only {', '.join(sorted(given)[:4])} ...") from error
    expected = {name: tensor for name, tensor in to_official(model).items() if name != _UNUSED}
    for name in sorted(expected.keys() | given.keys()):
        wanted = tuple(expected[name].shape) if name in expected else "none"
        found = tuple(given[name].shape) if name in given else "none"
        if wanted != found:
            raise ModelError(f"{name}: expected shape {wanted}, found {found}")
        if not bool(torch.isfinite(given[name]).all()):
            raise ModelError(f"{name}: expected finite numbers, found others")
    model.load_state_dict(given if isinstance(model, MaskedTokenModel) else from_official_names(given))
    return model.eval()


def to_official(model: TokenViT | MaskedTokenModel) -> dict[str, Tensor]:
    """A network's tensors by their published names."""
    tensors = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    if isinstance(model, MaskedTokenModel):
        config = model.config
        fixed = sin_cos_table(config.patches, config.decoder_width)
        return tensors | {_UNUSED: F.pad(fixed, (0, 0, 1, 0))}
    return {_published(name): tensor for name, tensor in tensors.items()}


def from_official_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A TokenViT's tensors by their own names, from the published ones."""
    return {_ours(name): tensor for name, tensor in tensors.items()}


def _vit(tensors: Mapping[str, Tensor]) -> TokenViT:
    width, channels, kernel, _ = tensors["patch_embed.proj.weight"].shape
    codes = tensors.get("token_emb.word_embeddings.weight")
    patch = kernel if codes is not None else kernel // 2
    side = patch * round((tensors["pos_embed"].shape[1] - 1) ** 0.5)
    return TokenViT(
        grid=(side, side),
        channels=channels,
        codebook_size=None if codes is None else len(codes),
        patch=patch,
        embed_dim=width,
        depth=_depth(tensors, "blocks"),
        num_heads=width // HEAD_WIDTH,
        mlp_ratio=len(tensors["blocks.0.mlp.fc1.weight"]) / width,
        num_classes=len(tensors["head.weight"]),
    )


def _masked(tensors: Mapping[str, Tensor]) -> MaskedTokenModel:
    codes, channels = tensors["token_emb.word_embeddings.weight"].shape
    width, _, patch, _ = tensors["patch_embed.proj.weight"].shape
    side = patch * round((tensors["pos_embed"].shape[1] - 1) ** 0.5)
    return MaskedTokenModel(
        MaskedTokenConfig(
            codebook_size=codes,
            channels=channels,
            grid=(side, side),
            patch=patch,
            width=width,
            depth=_depth(tensors, "blocks"),
            heads=width // HEAD_WIDTH,
            decoder_width=len(tensors["decoder_embed.weight"]),
            decoder_depth=_depth(tensors, "decoder_blocks"),
            decoder_heads=_DECODER_HEADS,
        )
    )


def _depth(tensors: Mapping[str, Tensor], blocks: str) -> int:
    return len({name.split(".")[1] for name in tensors if name.startswith(f"{blocks}.")})


def _published(name: str) -> str:
    for ours, theirs in _RENAMED.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


def _ours(name: str) -> str:
    for ours, theirs in _RENAMED.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name
