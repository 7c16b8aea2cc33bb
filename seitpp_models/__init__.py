"""seitpp_models: networks that learn from discrete tokens, and how they are trained.

Importing it registers the token ViTs with timm.
"""

from tokenstore.networks.torchvision import import_torchvision

import_torchvision()

from seitpp_models.errors import ModelError  # noqa: E402
from seitpp_models.networks.backbones import TokenClassifier  # noqa: E402
from seitpp_models.networks.masking import MaskRatio, PatchMask, draw_mask, draw_ratio  # noqa: E402
from seitpp_models.networks.mtm import MaskedTokenConfig, MaskedTokenModel, MaskedTokenOutput  # noqa: E402
from seitpp_models.networks.segmentation import TokenSegmenter  # noqa: E402
from seitpp_models.networks.vit import TokenViT  # noqa: E402
from seitpp_models.weights.files import TrainedModel, load_model, save_model  # noqa: E402
from seitpp_models.weights.official import load_official  # noqa: E402
from seitpp_models.weights.transfer import start_from  # noqa: E402

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
