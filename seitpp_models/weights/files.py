"""Networks as safetensors files, with the arguments to build them by and the tokenizer of their codes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from seitpp_models.errors import ModelError
from seitpp_models.networks.backbones import TokenClassifier
from seitpp_models.networks.mtm import MaskedTokenConfig, MaskedTokenModel
from seitpp_models.networks.segmentation import TokenSegmenter
from seitpp_models.networks.shape import NetworkShape
from seitpp_models.networks.vit import token_vit
from tokenstore.errors import TokenstoreError, did_you_mean
from tokenstore.files import write_file
from tokenstore.format import Manifest, Preprocessing, TokenizerIdentity
from tokenstore.format.fields import list_of, null_or, text
from tokenstore.networks.tensor_files import (
    check_shapes,
    check_sizes,
    declared_shapes,
    metadata_value,
    shapes_of,
)
from tokenstore.sources.base import UNKNOWN_TOKENIZER

__all__ = ["WEIGHTS", "TrainedModel", "build_model", "load_model", "save_model"]

WEIGHTS = "model.safetensors"
"""The file of the network in the folder of its training run."""
_FORMAT = "seitpp_models.1"
_read_labels = null_or(list_of(text))


def _segmenter(backbone: Mapping[str, Any], **arguments: Any) -> TokenSegmenter:
    return TokenSegmenter(token_vit(**backbone), **arguments)


def _masked(**arguments: Any) -> MaskedTokenModel:
    return MaskedTokenModel(MaskedTokenConfig(**arguments))


def _timm(**arguments: Any) -> TokenClassifier:
    unknown = sorted(arguments.keys() - _TIMM_ARGUMENTS)
    if unknown:  # with others, a file could make timm fetch or read weights
        raise ValueError(f"expected arguments among {', '.join(sorted(_TIMM_ARGUMENTS))}, found {unknown}")
    return TokenClassifier(**arguments, pretrained=False)


_TIMM_ARGUMENTS = {
    "name",
    "num_classes",
    "channels",
    "codebook_size",
    "enlarge",
    "grid",
    "drop_path_rate",
    "scales",
}
_BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "masked": _masked,
    "vit": token_vit,
    "timm": _timm,
    "segmenter": _segmenter,
}


def build_model(kind: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Make an untrained network of kind "masked", "vit", "timm" or "segmenter" by the arguments of its class.

    Raises ModelError for another kind, and for arguments that do not fit.
    """
    if kind not in _BUILDERS:
        near = did_you_mean(kind, _BUILDERS)
        raise ModelError(f"expected a network of a kind in {list(_BUILDERS)}, found {kind!r:.80}{near}")
    try:
        return _BUILDERS[kind](**arguments)
    except (TypeError, ValueError, RuntimeError, AssertionError, ArithmeticError) as error:
        raise ModelError(f"a network of kind {kind}: {error}") from error


@dataclass(frozen=True)
class TrainedModel:
    """A network, the arguments it was built by, and the tokenizer and classes it was trained on."""

    model: nn.Module
    kind: str
    arguments: Mapping[str, Any]
    tokenizer: TokenizerIdentity
    """The tokenizer whose codes the network takes."""
    labels: tuple[str, ...] | None = None
    """Names of the classes, or None for a network without them."""
    preprocessing: Preprocessing | None = None
    """The steps from images to the tokenizer's input in the training data.

    None if they are unknown: the store was made of ready codes, or the file is older than this field.
    """

    @classmethod
    def for_store(
        cls, model: nn.Module, kind: str, arguments: Mapping[str, Any], manifest: Manifest
    ) -> TrainedModel:
        """Return a network for the codes of a store: of its tokenizer, and of images prepared as its were."""
        return cls(model, kind, arguments, manifest.tokenizer, preprocessing=manifest.preprocessing)

    @property
    def shape(self) -> NetworkShape:
        """The sizes of the network's input and output."""
        shape: NetworkShape = cast(Any, self.model).shape
        return shape

    def check(self, tokenizer: TokenizerIdentity, where: str) -> None:
        """Raise ModelError if codes are of another tokenizer; `where` names their store in the message."""
        ours, theirs = self.tokenizer, tokenizer
        if ours == TokenizerIdentity(UNKNOWN_TOKENIZER):  # a published checkpoint, which names none
            return
        unknown = None in (ours.fingerprint, theirs.fingerprint)
        if (ours.fingerprint != theirs.fingerprint and not unknown) or ours.kept_codes != theirs.kept_codes:
            raise ModelError(
                f"{where}: expected codes of {ours}, which the network was trained on, found codes of "
                f"{theirs}; "
                "convert the images with that tokenizer, or train a network on these. Ready codes are "
                "related to their tokenizer by tokenstore.convert(..., tokenizer=...), and a store by "
                "tokenstore.relate"
            )


def save_model(trained: TrainedModel, path: Path | str) -> None:
    """Write a network as a safetensors file, whole or not at all.

    Raises OSError if the file cannot be written.
    """
    metadata = {
        "format": _FORMAT,
        "kind": trained.kind,
        "arguments": json.dumps(trained.arguments),
        "tokenizer": json.dumps(trained.tokenizer.to_dict()),
        "labels": json.dumps(trained.labels),
        "preprocessing": json.dumps(None if trained.preprocessing is None else vars(trained.preprocessing)),
    }
    tensors = {
        name: tensor.detach().cpu().contiguous() for name, tensor in trained.model.state_dict().items()
    }
    write_file(path, save(tensors, metadata))


def load_model(path: Path | str) -> TrainedModel:
    """Read a network from a file of `save_model`, in eval mode.

    Raises ModelError if the file is of another kind, or a tensor is missing, of another shape or not finite.
    """
    try:
        with safe_open(path, "pt") as file:
            return _read_model(file)
    except (
        TokenstoreError,
        SafetensorError,
        OSError,
        ValueError,
        TypeError,
        KeyError,
        RuntimeError,
    ) as error:
        raise ModelError(f"{path}: expected a network of save_model: {error!s:.500}") from error


def _read_model(file: Any) -> TrainedModel:
    metadata = file.metadata() or {}
    if metadata.get("format") != _FORMAT:
        raise ModelError(f"its format is {metadata.get('format')!r:.80}, not {_FORMAT!r}")
    kind, arguments = metadata["kind"], metadata_value(metadata, "arguments")
    labels = _read_labels(metadata_value(metadata, "labels"), "labels")
    tokenizer = TokenizerIdentity.from_dict(metadata_value(metadata, "tokenizer"), "tokenizer")
    steps = metadata_value(metadata, "preprocessing", "null")
    preprocessing = None if steps is None else Preprocessing.from_dict(steps, "preprocessing")
    shapes = declared_shapes(file)
    check_sizes(arguments, shapes)
    check_shapes(shapes_of(lambda: build_model(kind, arguments)), shapes)
    model = build_model(kind, arguments)
    tensors = {name: file.get_tensor(name) for name in shapes}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"{name}: expected finite numbers, found others")
    model.load_state_dict(tensors)
    return TrainedModel(model.eval(), kind, arguments, tokenizer, labels, preprocessing)
