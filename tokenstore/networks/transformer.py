"""The transformer blocks of ViT-VQGAN and TokenAdapt, with the parameter names of SeiT's checkpoints."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenstore.networks.pointwise import Pointwise

__all__ = ["HEAD_WIDTH", "Attention", "Transformer", "sin_cos_table"]

HEAD_WIDTH = 64
_LONG = 400
"""The number of positions from which attention on a CPU in bfloat16 is faster one head at a time."""


class Attention(nn.Module):
    """A self-attention with heads of HEAD_WIDTH channels."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = Pointwise(width, 3 * heads * HEAD_WIDTH, bias=False)
        self.to_out = Pointwise(heads * HEAD_WIDTH, width)

    def forward(self, x: Tensor, needed: Tensor | None = None) -> Tensor:
        """Return attention over x (B, N, C).

        With a mask `needed` (B, N) bool, only those M queries are computed, and returned as rows (M, C).
        """
        if needed is not None:
            return self._needed(x, needed)
        split: Tensor = self.to_qkv(x).unflatten(-1, (3, self.heads, HEAD_WIDTH))
        queries, keys, values = split.permute(2, 0, 3, 1, 4)  # each B, heads, N, HEAD_WIDTH
        out: Tensor = self.to_out(attention(queries, keys, values).transpose(1, 2).flatten(2))
        return out

    def _needed(self, x: Tensor, needed: Tensor) -> Tensor:
        for_queries, for_others = self.to_qkv.weight.tensor_split([self.heads * HEAD_WIDTH])
        rows = F.linear(x[needed], for_queries).view(-1, self.heads, HEAD_WIDTH).transpose(0, 1)
        others = F.linear(x, for_others).view(*x.shape[:2], 2, self.heads, HEAD_WIDTH)
        keys, values = others.permute(2, 0, 3, 1, 4)
        samples = zip(torch.split(rows, needed.sum(1).tolist(), 1), keys, values, strict=True)
        mixed = [attention(*(part[None] for part in sample))[0] for sample in samples]
        out: Tensor = self.to_out(torch.cat(mixed, 1).transpose(0, 1).flatten(1))
        return out


def attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Return softmax(queries keys^T / sqrt(HEAD_WIDTH)) values, each (B, heads, N, HEAD_WIDTH)."""
    if queries.device.type != "cpu" or queries.dtype != torch.bfloat16 or keys.shape[2] < _LONG:
        return F.scaled_dot_product_attention(queries, keys, values)
    # A head's similarities stay in the cache: up to twice as fast as torch's fused kernel in bfloat16.
    scale = HEAD_WIDTH**-0.5
    heads = zip(*(part.flatten(0, 1).unbind() for part in (queries, keys, values)), strict=True)
    mixed = [torch.mm(torch.mm(scale * query, key.T).softmax(1), value) for query, key, value in heads]
    return torch.stack(mixed).view_as(queries)


class MLP(nn.Module):
    """A network of two linear maps with a tanh between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.net = nn.Sequential(Pointwise(width, hidden), nn.Tanh(), Pointwise(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        """Return features (B, N, width) of x (B, N, width)."""
        out: Tensor = self.net(x)
        return out


class Residual(nn.Module):
    """A residual connection: x + fn(norm(x))."""

    def __init__(self, width: int, fn: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        """Return x + fn(norm(x)) of x (B, N, C)."""
        out: Tensor = self.fn(self.norm(x))
        return x + out

    def rows(self, needed: Tensor, x: Tensor) -> Tensor:
        """Return the M rows (M, C) of the result that are `needed` (B, N) bool; `fn` is attention."""
        out: Tensor = self.fn(self.norm(x), needed)
        return x[needed] + out


class Transformer(nn.Module):
    """A transformer of pre-norm blocks and a last LayerNorm, from (B, N, width) to the same shape."""

    def __init__(self, width: int, depth: int, heads: int, mlp: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(
                nn.Sequential(Residual(width, Attention(width, heads)), Residual(width, MLP(width, mlp)))
                for _ in range(depth)
            )
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, needed: Tensor | None = None) -> Tensor:
        """Return features (B, N, width), or rows (M, width) of those that are `needed` (B, N) bool."""
        if needed is None:
            x = self.layers(x)
        else:
            attention, mlp = cast(Any, self.layers[-1])
            x = mlp(attention.rows(needed, self.layers[:-1](x)))
        out: Tensor = self.norm(x)
        return out


def sin_cos_table(grid: tuple[int, int], width: int) -> Tensor:
    """Return fixed 2-D positions (1, H * W, width) float32 of a grid (H, W), row by row.

    The first half of the channels comes from the column's index, the second from the row's. A half of d
    channels has first all sines, then all cosines, of index / 10000^(2i/d). Raises ValueError if the width is
    not a multiple of 4.
    """
    if width % 4:
        raise ValueError(f"expected a width that is a multiple of 4, found {width}")
    half = width // 2
    frequencies = 10000 ** (-torch.arange(0, half, 2, dtype=torch.float64) / half)
    angles = torch.arange(max(grid), dtype=torch.float64)[:, None] * frequencies
    line = torch.cat([angles.sin(), angles.cos()], dim=1)  # max(grid), half
    rows, columns = grid
    by_column, by_row = (
        line[:columns].expand(rows, columns, half),
        line[:rows, None].expand(rows, columns, half),
    )
    return torch.cat([by_column, by_row], dim=2).reshape(1, rows * columns, width).float()
