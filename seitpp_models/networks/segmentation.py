"""Dense prediction from tokens: a class for each pixel of a label map.

A linear head, and one after UPerNet, https://arxiv.org/abs/1807.10221, over features of several depths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, TypeAlias

import torch
from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

from seitpp_models.networks.shape import NetworkShape
from seitpp_models.networks.vit import TokenViT

__all__ = ["Head", "LinearHead", "PyramidHead", "TokenSegmenter", "segmentation_loss"]

Head: TypeAlias = Literal["linear", "upernet"]


class TokenSegmenter(nn.Module):
    """Tokens to logits (B, classes, *size): a TokenViT's features, a head, and bilinear enlargement.

    `size` is the label map's, by default that of the patches. `depths` are the blocks whose features the
    head sees, each after a LayerNorm of its own, by default a quarter, a half, three quarters and all of
    them for "upernet", the last for "linear".
    """

    def __init__(
        self,
        backbone: TokenViT,
        classes: int,
        head: Head = "linear",
        depths: Sequence[int] | None = None,
        width: int = 256,
    ) -> None:
        super().__init__()
        count = len(backbone.blocks)
        if depths is None:
            depths = [count - 1] if head == "linear" else [(count * part) // 4 - 1 for part in (1, 2, 3, 4)]
        if not depths or min(depths) < 0 or max(depths) >= count:
            raise ValueError(f"depths: expected blocks from 0 to {count - 1}, found {list(depths)}")
        # What classifies images has nothing to learn here.
        backbone.fc_norm, backbone.head = nn.Identity(), nn.Identity()
        self.backbone, self.depths = backbone, sorted(depths)
        # A ViT's blocks add up, to numbers of other sizes at each depth, and of others once pre-trained.
        self.norms = nn.ModuleList(LayerNorm2d(backbone.embed_dim) for _ in self.depths)
        self.classes = classes
        self.head: nn.Module
        if head == "linear":
            self.head = LinearHead(backbone.embed_dim * len(self.depths), classes)
        elif head == "upernet":
            self.head = PyramidHead(backbone.embed_dim, len(self.depths), width, classes)
        else:
            raise ValueError(f"head: expected 'linear' or 'upernet', found {head!r}")

    @property
    def shape(self) -> NetworkShape:
        """The sizes of the input and of the output."""
        return replace(self.backbone.shape, classes=self.classes, output="label map")

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that AdamW leaves alone, for timm."""
        return {f"backbone.{name}" for name in self.backbone.no_weight_decay()}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Which layer parameters are of, for timm's decay of learning rates by layer."""
        return {
            "stem": r"^backbone\.(?:cls_token|pos_embed|patch_embed)",
            "blocks": [(r"^backbone\.blocks\.(\d+)", None), (r"^backbone\.norm", (99999,))],
        }

    def forward(self, tokens: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        features = self.backbone.features(tokens, self.depths)
        logits: Tensor = self.head([norm(part) for norm, part in zip(self.norms, features, strict=True)])
        if size is None:
            return logits
        return F.interpolate(logits.float(), size, mode="bilinear", align_corners=False)


class LinearHead(nn.Module):
    """Features, each (B, width, h, w), normalised and mapped to classes place by place."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width)
        self.classify = nn.Conv2d(width, classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        logits: Tensor = self.classify(self.norm(torch.cat(list(features), 1)))
        return logits


class PyramidHead(nn.Module):
    """Features (B, width, h, w) of one grid, from shallow to deep, as a pyramid that UPerNet's decoder fuses.

    Four depths become grids of 4, 2, 1 and 1/2 times the size, as in BEiT, https://arxiv.org/abs/2106.08254.
    """

    def __init__(self, channels: int, levels: int, width: int, classes: int) -> None:
        super().__init__()
        if levels < 2:
            raise ValueError(f"depths: expected two or more for a pyramid, found {levels}")
        self.rescale = nn.ModuleList(_rescaling(channels, 2 - level) for level in range(levels))
        # The decoder leaves out what a convolutional encoder gives at its first two sizes.
        widths = [0, 0, *[channels] * levels]
        self.decoder = UPerNetDecoder(widths, len(widths), width)
        self.drop = nn.Dropout2d(0.1)
        self.classify = nn.Conv2d(width, classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        pyramid = [rescale(part) for rescale, part in zip(self.rescale, features, strict=True)]
        logits: Tensor = self.classify(self.drop(self.decoder([None, None, *pyramid])))
        return logits


def segmentation_loss(logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    """Cross-entropy of logits (B, classes, H, W) for label maps (B, H, W); 0 where every pixel is ignored."""
    loss = F.cross_entropy(logits.float(), labels.long(), ignore_index=ignore_index, reduction="sum")
    return loss / (labels != ignore_index).sum().clamp(min=1)


def _rescaling(channels: int, doublings: int) -> nn.Module:
    if doublings < 0:
        return nn.MaxPool2d(2**-doublings, ceil_mode=True)
    steps: list[nn.Module] = []
    for number in range(doublings):
        if number:
            steps += [nn.BatchNorm2d(channels), nn.GELU()]
        steps.append(nn.ConvTranspose2d(channels, channels, 2, stride=2))
    return nn.Sequential(*steps)
