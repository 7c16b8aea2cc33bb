"""The network that predicts a class for each pixel of a label map from tokens.

Its head is linear, or UPerNet's, https://arxiv.org/abs/1807.10221, over features of several depths.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, TypeAlias

import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

from seitpp_models.networks.shape import NetworkShape
from seitpp_models.networks.vit import TokenViT

__all__ = ["Head", "LinearHead", "PyramidHead", "TokenSegmenter", "segmentation_loss"]

Head: TypeAlias = Literal["linear", "upernet"]


class TokenSegmenter(nn.Module):
    """A network from tokens to logits (B, classes, H, W): a TokenViT's features, a head, and enlargement.

    `backbone` stays as it is: the network takes a copy without the classifier. `depths` are the numbers of
    the blocks whose features the head sees, each after a LayerNorm of its own. By default "upernet" sees a
    quarter, a half, three quarters and all of the blocks, and "linear" the last one.

    Raises ValueError for depths that the backbone does not have, fewer than two of them for "upernet", and
    another head.
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
        self.backbone, self.depths = copy.deepcopy(backbone), sorted(depths)
        # The layers of the classifier would get no gradients here.
        self.backbone.fc_norm, self.backbone.head = nn.Identity(), nn.Identity()
        # A ViT's features grow with depth, and differently once it is pre-trained.
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
        """Return the names of the parameters without weight decay, for timm."""
        return {f"backbone.{name}" for name in self.backbone.no_weight_decay()}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return patterns of parameters' names by layer, for timm's decay of learning rates by layer.

        The embedding of codes is in no layer, so that it learns at the full rate.
        """
        return {
            "stem": r"^backbone\.(?:cls_token|pos_embed|patch_embed\.(?!token_emb))",
            "blocks": [(r"^backbone\.blocks\.(\d+)", None), (r"^backbone\.norm", (99999,))],
        }

    def forward(self, tokens: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Return logits (B, classes, H, W) of the size of a label map, by default of the patches' grid.

        Logits are enlarged bilinearly. Tokens are the backbone's: vectors (B, C, H, W) or codes (B, H, W).
        """
        features = self.backbone.features(tokens, self.depths)
        logits: Tensor = self.head([norm(part) for norm, part in zip(self.norms, features, strict=True)])
        if size is None:
            return logits
        return F.interpolate(logits.float(), size, mode="bilinear", align_corners=False)


class LinearHead(nn.Module):
    """A head that normalises features, each (B, width, h, w), and maps each position to classes."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width)
        self.classify = nn.Conv2d(width, classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return logits (B, classes, h, w)."""
        logits: Tensor = self.classify(self.norm(torch.cat(list(features), 1)))
        return logits


class PyramidHead(nn.Module):
    """A head that makes a pyramid of features (B, width, h, w) of one grid, which UPerNet's decoder fuses.

    Four depths become grids of 4, 2, 1 and 1/2 times the size, as in BEiT, https://arxiv.org/abs/2106.08254.
    Raises ValueError for fewer than two depths.
    """

    def __init__(self, channels: int, levels: int, width: int, classes: int) -> None:
        super().__init__()
        if levels < 2:
            raise ValueError(f"depths: expected two or more for a pyramid, found {levels}")
        # the import takes a good part of a second, which no other network needs
        from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder

        self.rescale = nn.ModuleList(_rescaling(channels, 2 - level) for level in range(levels))
        # The decoder ignores the first two sizes, which a convolutional encoder would return.
        widths = [0, 0, *[channels] * levels]
        self.decoder = UPerNetDecoder(widths, len(widths), width)
        self.drop = nn.Dropout2d(0.1)
        self.classify = nn.Conv2d(width, classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return logits (B, classes, 4h, 4w) for four depths; features come from shallow to deep."""
        pyramid = [rescale(part) for rescale, part in zip(self.rescale, features, strict=True)]
        logits: Tensor = self.classify(self.drop(self.decoder([None, None, *pyramid])))
        return logits


def segmentation_loss(logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    """Return the cross-entropy of logits (B, classes, H, W) for label maps (B, H, W), the mean over pixels.

    The loss is 0 if every pixel is `ignore_index`.
    """
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
