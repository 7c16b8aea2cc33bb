"""The masked-token model: a transformer that learns from codes alone, by predicting those it does not see.

SeiT++, https://arxiv.org/abs/2312.10105, section 3.1. Parameters have the names of the published checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from timm.layers import trunc_normal_
from torch import Tensor, nn
from torch.nn import functional as F

from seitpp_models.networks.blocks import LeanBlock
from seitpp_models.networks.masking import PatchMask
from seitpp_models.networks.mtm_heads import MaskedTokenOutput, NumberHead, TokenHead
from seitpp_models.networks.shape import NetworkShape, check_scales
from seitpp_models.networks.sizes import size_named
from seitpp_models.networks.token_embedding import EPSILON, TokenEmbedding
from tokenstore.networks.transformer import sin_cos_table

__all__ = [
    "UNUSED_TABLE",
    "MaskedTokenConfig",
    "MaskedTokenModel",
    "MaskedTokenOutput",
    "masked_token_config",
]

UNUSED_TABLE = "decoder_pos_embed"
"""A fixed table in published checkpoints beside the learned one; the model adds only the learned one."""
_INITIAL_DEVIATION = 0.02
_DECODER_HEAD_WIDTH = 32


@dataclass(frozen=True)
class MaskedTokenConfig:
    """The sizes of a masked-token model, by default those of SeiT++ with ViT-B.

    Raises ValueError for widths that the heads do not divide, and a grid that patches do not fill.
    """

    codebook_size: int | tuple[int, ...] = 391
    """The number of codes; one number for each of several codebooks, and none for tokens that are numbers."""
    channels: int = 32
    grid: tuple[int, int] = (28, 28)
    """The rows and columns of the codes that the model takes."""
    patch: int = 2
    width: int = 768
    depth: int = 12
    heads: int = 12
    decoder_width: int = 512
    decoder_depth: int = 4
    decoder_heads: int = 16
    dropout: float = 0.1
    """The share of dropped elements after the token embedding and in the decoder."""
    scales: tuple[float, ...] = ()
    """The numbers that the channels of numbers are divided by."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "grid", tuple(self.grid))
        object.__setattr__(self, "scales", check_scales(self.scales, self.channels))
        if not isinstance(self.codebook_size, int):
            object.__setattr__(self, "codebook_size", tuple(self.codebook_size))
        for name, width, heads in (
            ("heads", self.width, self.heads),
            ("decoder_heads", self.decoder_width, self.decoder_heads),
        ):
            if heads < 1 or width % heads:
                raise ValueError(f"{name}: expected a divisor of the width {width}, found {heads}")
        if min(self.grid) < self.patch or any(side % self.patch for side in self.grid):
            raise ValueError(
                f"grid: expected sides that are multiples of the patch, {self.patch}, found {self.grid}"
            )

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """The number of codes of each codebook; empty for tokens that are numbers."""
        return (self.codebook_size,) if isinstance(self.codebook_size, int) else self.codebook_size

    @property
    def patches(self) -> tuple[int, int]:
        """The rows and columns of patches."""
        return self.grid[0] // self.patch, self.grid[1] // self.patch


_DECODER_WIDTHS = {"tiny": 192, "small": 256}
"""The widths of the decoder where they are not MaskedTokenConfig's."""


def masked_token_config(size: str, **sizes: Any) -> MaskedTokenConfig:
    """Return the config with an encoder "tiny", "small", "base" or "large"; the published model is "base".

    `sizes` replace single fields. Heads of the decoder are 32 wide, as in the published model. Raises
    ValueError for another name, or sizes that do not fit.
    """
    fields = asdict(size_named(size))
    if size in _DECODER_WIDTHS:
        fields["decoder_width"] = _DECODER_WIDTHS[size]
    fields |= sizes
    decoder_width = fields.get("decoder_width", MaskedTokenConfig.decoder_width)
    fields.setdefault("decoder_heads", decoder_width // _DECODER_HEAD_WIDTH)
    return MaskedTokenConfig(**fields)


class Projection(nn.Module):
    """The convolution that makes patches (B, N, width) of vectors (B, C, H, W), by its published name."""

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, stride=patch)

    def forward(self, vectors: Tensor) -> Tensor:
        """Return patches (B, N, width), row by row."""
        patches: Tensor = self.proj(vectors)
        return patches.flatten(2).mT


class MaskedTokenModel(nn.Module):
    """A model that predicts the codes in masked patches of codes (B, H, W).

    Of several codebooks, codes are (B, n, H, W). Without any, tokens are numbers (B, C, H, W), and the
    numbers in masked patches are predicted. The encoder works on visible patches only, and the head on masked
    patches only. `label_smoothing` is that of the loss. `encode` returns features without any mask. Raises
    ValueError for codes of another grid.
    """

    pos_embed: Tensor
    """The positions (1, 1 + N, width), zeros for the class token."""

    def __init__(self, config: MaskedTokenConfig, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.config, self.label_smoothing = config, label_smoothing
        count = config.patches[0] * config.patches[1]
        norm = partial(nn.LayerNorm, eps=EPSILON)
        sizes = config.codebook_sizes
        self.token_emb = (
            TokenEmbedding(config.codebook_size, config.channels, config.dropout) if sizes else None
        )
        self.patch_embed = Projection(config.channels, config.width, config.patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.mask_token_label = nn.Parameter(torch.zeros(1, 1, config.width))
        positions = sin_cos_table(config.patches, config.width)
        self.register_buffer("pos_embed", F.pad(positions, (0, 0, 1, 0)))
        self.blocks = nn.Sequential(
            *(
                LeanBlock(config.width, config.heads, qkv_bias=True, norm_layer=norm)
                for _ in range(config.depth)
            )
        )
        self.norm = norm(config.width)
        self.decoder_embed = nn.Linear(config.width, config.decoder_width)
        self.decoder_pos_embed_learned = nn.Parameter(torch.zeros(1, 1 + count, config.decoder_width))
        self.decoder_blocks = nn.Sequential(
            *(
                LeanBlock(
                    config.decoder_width,
                    config.decoder_heads,
                    qkv_bias=True,
                    proj_drop=config.dropout,
                    attn_drop=config.dropout,
                    norm_layer=norm,
                )
                for _ in range(config.decoder_depth)
            )
        )
        self.decoder_norm = norm(config.decoder_width)
        width, patch = config.decoder_width, config.patch
        self.mlm_layer: nn.Module = (
            TokenHead(sizes, config.channels, width, patch)
            if sizes
            else NumberHead(config.channels, width, patch)
        )
        self._initialise()

    @property
    def shape(self) -> NetworkShape:
        """The sizes of the input and of the output."""
        config = self.config
        sizes = config.codebook_sizes
        return NetworkShape(
            config.grid,
            config.patch,
            config.codebook_size if sizes else None,
            config.channels,
            sum(sizes) or config.channels,
            "codes",
            config.scales,
        )

    def backbone_sizes(self) -> dict[str, int]:
        """Return the sizes of the encoder's blocks, by the names that `token_vit` has for them."""
        config = self.config
        sizes = {"embed_dim": config.width, "depth": config.depth, "num_heads": config.heads}
        return sizes if config.codebook_sizes else {**sizes, "overlap": False}

    def published_tensors(self) -> dict[str, Tensor]:
        """Return all tensors by their names in published checkpoints, with the table that is not used."""
        config = self.config
        table = F.pad(sin_cos_table(config.patches, config.decoder_width), (0, 0, 1, 0))
        return {name: tensor.detach() for name, tensor in self.state_dict().items()} | {UNUSED_TABLE: table}

    def load_published(self, tensors: Mapping[str, Tensor], *, strict: bool = True) -> None:
        """Load tensors by their names in published checkpoints; not `strict`, they need not be all."""
        self.load_state_dict(tensors, strict=strict)

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        trunc_normal_(self.cls_token, std=_INITIAL_DEVIATION)

    def forward(self, codes: Tensor, mask: PatchMask) -> MaskedTokenOutput:
        """Return the loss of the masked patches of codes (B, H, W), and what they were predicted as."""
        patches = self._embedded(codes)
        visible = mask.visible[..., None]
        hidden = torch.zeros(patches.shape[:2], dtype=torch.bool, device=codes.device)
        hidden = hidden.scatter(1, mask.masked, True)[..., None]
        patches = torch.where(hidden, self.mask_token_label.to(patches.dtype), patches)
        patches = patches + self.pos_embed[:, 1:]
        seen = self._encoded(patches.gather(1, visible.expand(-1, -1, patches.shape[2])))
        features = self.decoder_embed(seen)
        token, features = features[:, :1], features[:, 1:]
        # Every masked patch, and so every patch that is not visible, takes the class token's features.
        places = token.expand(-1, patches.shape[1], -1)
        places = places.scatter(1, visible.expand_as(features), features)
        places = torch.where(hidden, token, places)
        decoded = torch.cat((token, places), 1) + self.decoder_pos_embed_learned
        decoded = self.decoder_norm(self.decoder_blocks(decoded))[:, 1:]
        masked = decoded.gather(1, mask.masked[..., None].expand(-1, -1, decoded.shape[2]))
        tokens = self._tokens(codes)
        places = mask.masked.view(*mask.masked.shape, *[1] * (tokens.ndim - 2))
        targets = tokens.gather(1, places.expand(-1, -1, *tokens.shape[2:]))
        output: MaskedTokenOutput = (
            self.mlm_layer(masked, targets)
            if self.token_emb is None
            else self.mlm_layer(masked, targets, self.token_emb.tables(), self.label_smoothing)
        )
        return output

    def no_weight_decay(self) -> set[str]:
        """Return the names of the parameters without weight decay, for timm: not the learned tokens."""
        return {"mlm_layer.bias"}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return patterns of parameters' names by layer, for timm's decay of learning rates by layer.

        The embedding of codes is in no layer, so that it learns at the full rate.
        """
        return {
            "stem": r"^(?:cls_token|mask_token_label|patch_embed)",
            "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))],
        }

    def encode(self, codes: Tensor) -> Tensor:
        """Return features (B, 1 + N, width) of codes (B, H, W): the class token's, then the patches'."""
        return self._encoded(self._embedded(codes) + self.pos_embed[:, 1:])

    def _embedded(self, codes: Tensor) -> Tensor:
        if codes.shape[-2:] != self.config.grid:
            raise ValueError(f"expected codes (B, {self.config.grid}), found {tuple(codes.shape)}")
        patches: Tensor = self.patch_embed(codes if self.token_emb is None else self.token_emb(codes))
        return patches

    def _encoded(self, patches: Tensor) -> Tensor:
        token = (self.cls_token + self.pos_embed[:, :1]).expand(len(patches), -1, -1)
        features: Tensor = self.norm(self.blocks(torch.cat((token.to(patches.dtype), patches), 1)))
        return features

    def _tokens(self, codes: Tensor) -> Tensor:
        """Group codes (B, H, W) by patch: (B, N, patch * patch) int64; other tokens keep n or C last."""
        side, (rows, columns) = self.config.patch, self.config.patches
        tokens = codes if codes.is_floating_point() else codes.long()
        split = tokens.reshape(*codes.shape[:-2], rows, side, columns, side)
        grouped = split.transpose(-3, -2).flatten(-2).flatten(-3, -2)
        return grouped if codes.ndim == 3 else grouped.movedim(1, -1)
