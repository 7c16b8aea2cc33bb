"""Networks as files: our own, the published checkpoints of SeiT and SeiT++, and starting one from another.

The entry points are `load_model` and `save_model` (safetensors with everything that rebuilds the network) and
`load_official` (published checkpoints). `start_from` copies the weights of one network into another.

May import: `seitpp_models.networks` and `seitpp_models.errors`, safetensors, and tokenstore's `files`,
`format`, `networks` and `augment`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenstore.doors import lazy_names

if TYPE_CHECKING:
    from seitpp_models.weights.files import TrainedModel, build_model, load_model, save_model
    from seitpp_models.weights.official import from_official, load_official, to_official
    from seitpp_models.weights.transfer import backbone_arguments, pretrained_network, start_from

__all__ = [
    "TrainedModel",
    "backbone_arguments",
    "build_model",
    "from_official",
    "load_model",
    "load_official",
    "pretrained_network",
    "save_model",
    "start_from",
    "to_official",
]

_HOMES = {
    "TrainedModel": "files",
    "backbone_arguments": "transfer",
    "build_model": "files",
    "from_official": "official",
    "load_model": "files",
    "load_official": "official",
    "pretrained_network": "transfer",
    "save_model": "files",
    "start_from": "transfer",
    "to_official": "official",
}


__getattr__, __dir__ = lazy_names(__name__, _HOMES)
