"""The networks: token ViTs, any timm backbone over tokens, segmenters and the masked-token model.

The entry point is `seitpp_models.networks.vit`, which registers the token ViTs with timm; a store gives a
network its sizes (`store_sizes`), and `shape` says which codes fit a network. The names below are imported
when they are first used, so that a ViT does not import what only a segmenter needs.

May import: timm and torch, `seitpp_models.errors`, and tokenstore up to `augment`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenstore.doors import lazy_names

if TYPE_CHECKING:
    from seitpp_models.networks.backbones import TokenClassifier
    from seitpp_models.networks.masking import MaskRatio, PatchMask, draw_mask, draw_ratio
    from seitpp_models.networks.mtm import MaskedTokenConfig, MaskedTokenModel, masked_token_config
    from seitpp_models.networks.mtm_heads import MaskedTokenOutput
    from seitpp_models.networks.segmentation import TokenSegmenter, segmentation_loss
    from seitpp_models.networks.shape import NetworkShape, taking_any_grid
    from seitpp_models.networks.sizes import SIZES
    from seitpp_models.networks.store_sizes import StoreSizes, seen_grid, sizes_of
    from seitpp_models.networks.token_form import TokenForm, form_of, form_of_tokenizer
    from seitpp_models.networks.vit import TokenViT, token_vit

__all__ = [
    "SIZES",
    "MaskRatio",
    "MaskedTokenConfig",
    "MaskedTokenModel",
    "MaskedTokenOutput",
    "NetworkShape",
    "PatchMask",
    "StoreSizes",
    "TokenClassifier",
    "TokenForm",
    "TokenSegmenter",
    "TokenViT",
    "draw_mask",
    "draw_ratio",
    "form_of",
    "form_of_tokenizer",
    "masked_token_config",
    "seen_grid",
    "segmentation_loss",
    "sizes_of",
    "taking_any_grid",
    "token_vit",
]

_HOMES = {
    "SIZES": "sizes",
    "MaskRatio": "masking",
    "MaskedTokenConfig": "mtm",
    "MaskedTokenModel": "mtm",
    "MaskedTokenOutput": "mtm_heads",
    "NetworkShape": "shape",
    "PatchMask": "masking",
    "StoreSizes": "store_sizes",
    "TokenClassifier": "backbones",
    "TokenForm": "token_form",
    "TokenSegmenter": "segmentation",
    "TokenViT": "vit",
    "draw_mask": "masking",
    "draw_ratio": "masking",
    "form_of": "token_form",
    "form_of_tokenizer": "token_form",
    "masked_token_config": "mtm",
    "seen_grid": "store_sizes",
    "taking_any_grid": "shape",
    "segmentation_loss": "segmentation",
    "sizes_of": "store_sizes",
    "token_vit": "vit",
}


__getattr__, __dir__ = lazy_names(__name__, _HOMES)
