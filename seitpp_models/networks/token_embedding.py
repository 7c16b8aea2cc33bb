"""The layers from grids of codes, or of their vectors, to the patches of a transformer.

SeiT, https://arxiv.org/abs/2303.11114, section 3.2; SeiT++, https://arxiv.org/abs/2312.10105, section 3.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import PatchEmbed
from torch import Tensor, nn

from seitpp_models.networks.shape import check_grid

__all__ = ["EPSILON", "LearnedPatches", "PlainPatches", "StemAdaptor", "TokenEmbedding"]

EPSILON = 1e-6
"""The epsilon of every LayerNorm in the published transformers, except in the MTM head."""
_INITIAL_DEVIATION = 0.02


class TokenEmbedding(nn.Module):
    """A layer from codes (B, H, W) to learned vectors (B, C, H, W), normalised, with dropout.

    With a `codebook_size` for each of n codebooks, codes are (B, n, H, W), and the learned vectors of a
    position are added.
    """

    offsets: Tensor
    """The row of the table (n,) at which the vectors of each codebook begin."""

    def __init__(self, codebook_size: int | Sequence[int], channels: int, dropout: float = 0.1) -> None:
        super().__init__()
        sizes = (codebook_size,) if isinstance(codebook_size, int) else tuple(codebook_size)
        self.codebook_size = codebook_size if isinstance(codebook_size, int) else sizes
        self.word_embeddings = nn.Embedding(sum(sizes), channels)
        offsets = torch.tensor([0, *sizes[:-1]]).cumsum(0)
        self.register_buffer("offsets", offsets, persistent=False)
        self.LayerNorm = nn.LayerNorm(channels, EPSILON)
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.word_embeddings.weight, std=_INITIAL_DEVIATION)

    def forward(self, codes: Tensor) -> Tensor:
        """Return vectors (B, C, H, W); raises ValueError for codes of another shape or a dtype of floats."""
        several = not isinstance(self.codebook_size, int)
        if codes.is_floating_point() or codes.ndim != 3 + several:
            expected = f"(B, {len(self.offsets)}, H, W)" if several else "(B, H, W)"
            raise ValueError(
                f"expected codes {expected} of an integer dtype, found {tuple(codes.shape)} {codes.dtype}"
            )
        found = self.word_embeddings(codes.long() + self.offsets[:, None, None] if several else codes.long())
        vectors: Tensor = self.dropout(self.LayerNorm(found.sum(1) if several else found))
        return vectors.movedim(-1, 1)

    def tables(self) -> tuple[Tensor, ...]:
        """Return the learned vectors (K, C) of each codebook, before they are normalised."""
        sizes = [self.codebook_size] if isinstance(self.codebook_size, int) else list(self.codebook_size)
        return torch.split(self.word_embeddings.weight, sizes)


class StemAdaptor(PatchEmbed):  # type: ignore[misc]
    """A layer from vectors (B, C, H, W) to overlapping patches: for 2x2 a convolution 4x4 with stride 2."""

    def __init__(self, *, patch_size: int, in_chans: int, embed_dim: int, **arguments: Any) -> None:
        super().__init__(patch_size=patch_size, in_chans=in_chans, embed_dim=embed_dim, **arguments)
        kernel = 2 * patch_size if patch_size > 1 else 3
        padding = (kernel - patch_size + 1) // 2
        self.any_grid = False
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel, stride=patch_size, padding=padding)

    def forward(self, vectors: Tensor) -> Tensor:
        """Return patches of vectors as timm does.

        Raises ValueError unless they are floats (B, C, H, W) of the layer's grid, or it takes `any_grid`.
        """
        check_vectors(vectors, self)
        patches: Tensor = super().forward(vectors)
        return patches


class PlainPatches(PatchEmbed):  # type: ignore[misc]
    """A layer from vectors (B, C, H, W) to patches that do not overlap."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.any_grid = False

    def forward(self, vectors: Tensor) -> Tensor:
        """Return patches as timm's PatchEmbed does; raises ValueError as `StemAdaptor` does."""
        check_vectors(vectors, self)
        patches: Tensor = super().forward(vectors)
        return patches


class LearnedPatches(PatchEmbed):  # type: ignore[misc]
    """A layer from codes (B, H, W), or (B, n, H, W), to patches of their learned vectors."""

    def __init__(
        self, *, codebook_size: int | Sequence[int], in_chans: int, dropout: float = 0.1, **arguments: Any
    ) -> None:
        super().__init__(in_chans=in_chans, **arguments)
        self.token_emb = TokenEmbedding(codebook_size, in_chans, dropout)
        self.any_grid = False

    def forward(self, codes: Tensor) -> Tensor:
        """Return patches as timm's PatchEmbed does.

        Raises ValueError for codes of another shape or dtype, and of another grid unless it takes `any_grid`.
        """
        vectors = self.token_emb(codes)
        if not self.any_grid:
            check_grid(vectors.shape[2:], self.img_size)
        patches: Tensor = super().forward(vectors)
        return patches


def check_vectors(vectors: Tensor, layer: Any) -> None:
    """Raise ValueError unless vectors are floats (B, C, H, W) of a layer's channels and grid."""
    channels = layer.proj.in_channels
    if not vectors.is_floating_point() or vectors.ndim != 4 or vectors.shape[1] != channels:
        raise ValueError(
            f"expected vectors (B, {channels}, H, W), found {tuple(vectors.shape)} "
            f"{vectors.dtype}; a network of codes is made with their number, codebook_size"
        )
    if not layer.any_grid:
        check_grid(vectors.shape[2:], layer.img_size)
