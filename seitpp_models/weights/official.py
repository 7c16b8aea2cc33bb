"""The published checkpoints of SeiT and SeiT++ as networks of this package, and back.

Every tensor's name and shape is checked.

SeiT, https://arxiv.org/abs/2303.11114; SeiT++, https://arxiv.org/abs/2312.10105.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from seitpp_models.errors import ModelError
from seitpp_models.networks.mtm import UNUSED_TABLE, MaskedTokenConfig, MaskedTokenModel
from seitpp_models.networks.vit import TokenViT
from tokenstore.augment import ADAPTER_PARTS
from tokenstore.errors import TokenstoreError
from tokenstore.networks.checkpoints import read_dense_tensors
from tokenstore.networks.transformer import HEAD_WIDTH

__all__ = ["from_official", "load_official", "to_official"]

_DECODER_HEADS = 16
_AVERAGE = "model_ema"
"""The key of the average of the weights."""


def load_official(path: Path | str, *, average: bool = False) -> TokenViT | MaskedTokenModel:
    """Read the network in a published checkpoint, in eval mode.

    The checkpoint is one of supervised SeiT, of MTM pre-training or of MTM fine-tuning. Some contain
    TokenAdapt's f and g too, which `tokenstore.augment.load_adapter` reads. With `average`, the network has
    the average of the weights, which some checkpoints contain too. Nothing in the file is executed.

    Raises ModelError if a tensor is missing, unknown, of another shape or not finite.
    """
    try:
        return from_official(read_dense_tensors(Path(path), _AVERAGE if average else None))
    except (TokenstoreError, OSError, ValueError) as error:
        raise ModelError(f"{path}: expected a checkpoint of SeiT or SeiT++: {error}") from error


def from_official(tensors: Mapping[str, Tensor]) -> TokenViT | MaskedTokenModel:
    """Make the network of tensors by their published names.

    Raises ModelError if a tensor is missing, unknown, of another shape or not finite.
    """
    network = {
        name: tensor
        for name, tensor in tensors.items()
        if not name.startswith(ADAPTER_PARTS) and name != UNUSED_TABLE
    }
    try:
        model = _masked(network) if "mlm_layer.bias" in network else _vit(network)
    except (KeyError, IndexError, ZeroDivisionError) as error:
        raise ModelError(f"found no tensor {error}, only {', '.join(sorted(network)[:4])} ...") from error
    expected = {name: tensor for name, tensor in to_official(model).items() if name != UNUSED_TABLE}
    for name in sorted(expected.keys() | network.keys()):
        expected_shape = tuple(expected[name].shape) if name in expected else "none"
        actual_shape = tuple(network[name].shape) if name in network else "none"
        if expected_shape != actual_shape:
            raise ModelError(f"{name}: expected shape {expected_shape}, found {actual_shape}")
        if not bool(torch.isfinite(network[name]).all()):
            raise ModelError(f"{name}: expected finite numbers, found others")
    model.load_published(network)
    return model.eval()


def to_official(model: TokenViT | MaskedTokenModel) -> dict[str, Tensor]:
    """Return a network's tensors by their published names."""
    return model.published_tensors()


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
