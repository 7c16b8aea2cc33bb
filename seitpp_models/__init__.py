"""The networks that learn from discrete tokens, and how they are trained.

Importing this package registers the token ViTs with timm:

    import seitpp_models, timm
    model = timm.create_model("seit_vit_base_token", codebook_size=391, num_classes=1000)

The other public names below are imported when they are first used. The wings: `networks` (what is trained),
`weights` (networks as files), `training`, `evaluation`, and `adapter` (TokenAdapt's trainer). All of them may
import tokenstore; nothing in tokenstore imports this package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenstore.doors import lazy_names
from tokenstore.networks.torchvision import import_torchvision

import_torchvision()  # timm imports it, and its own error would not say what to do

from seitpp_models.errors import ModelError  # noqa: E402
from seitpp_models.networks.vit import TokenViT  # noqa: E402

if TYPE_CHECKING:
    from seitpp_models.networks.backbones import TokenClassifier
    from seitpp_models.networks.masking import MaskRatio, PatchMask, draw_mask, draw_ratio
    from seitpp_models.networks.mtm import MaskedTokenConfig, MaskedTokenModel
    from seitpp_models.networks.mtm_heads import MaskedTokenOutput
    from seitpp_models.networks.segmentation import TokenSegmenter
    from seitpp_models.weights.files import TrainedModel, load_model, save_model
    from seitpp_models.weights.official import load_official
    from seitpp_models.weights.transfer import start_from

__all__ = [
    "MaskRatio",
    "MaskedTokenConfig",
    "MaskedTokenModel",
    "MaskedTokenOutput",
    "ModelError",
    "PatchMask",
    "TokenClassifier",
    "TokenSegmenter",
    "TokenViT",
    "TrainedModel",
    "draw_mask",
    "draw_ratio",
    "load_model",
    "load_official",
    "save_model",
    "start_from",
]

_HOMES = {
    "MaskRatio": "networks.masking",
    "MaskedTokenConfig": "networks.mtm",
    "MaskedTokenModel": "networks.mtm",
    "MaskedTokenOutput": "networks.mtm_heads",
    "PatchMask": "networks.masking",
    "TokenClassifier": "networks.backbones",
    "TokenSegmenter": "networks.segmentation",
    "TrainedModel": "weights.files",
    "draw_mask": "networks.masking",
    "draw_ratio": "networks.masking",
    "load_model": "weights.files",
    "load_official": "weights.official",
    "save_model": "weights.files",
    "start_from": "weights.transfer",
}
"""The modules of the public names that are imported when they are first used."""


__getattr__, __dir__ = lazy_names(__name__, _HOMES)
