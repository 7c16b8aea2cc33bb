"""The transformer block that stores little for the backward pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.models.vision_transformer import Attention, Block, Mlp
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

__all__ = ["LeanBlock"]

_CHANCES = 2**16


class LeanBlock(Block):  # type: ignore[misc]
    """A timm Block (B, N, C) -> (B, N, C) that stores about half as much for the backward pass.

    The block stores its input, the queries, keys and values, the result of attention, the input of the MLP,
    its hidden layer before the GELU, and one byte for each element of a dropout. LayerNorm, GELU and, on a
    CPU in bfloat16 or with dropout, the similarities are computed again in the backward pass. When torch
    compiles the block, the compiler decides what is stored. With arguments that add other parts, the block is
    timm's.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        attention, mlp = self.attn, self.mlp
        self._is_plain = type(attention) is Attention and type(mlp) is Mlp
        if self._is_plain:
            parts = [attention.q_norm, attention.k_norm, getattr(attention, "norm", None), mlp.norm]
            parts.append(getattr(attention, "gate", None))
            self._is_plain = all(part is None or isinstance(part, nn.Identity) for part in parts)

    def forward(self, x: Tensor, *masks: Any, **named: Any) -> Tensor:
        """Return the block's result (B, N, C); with masks, timm's own forward pass computes it."""
        result: Tensor
        if not self._is_plain or masks or named:
            result = super().forward(x, *masks, **named)
            return result
        x = x + self.drop_path1(self.ls1(self._attended(x)))
        hidden = _lean(lambda x: self.mlp.fc1(self.norm2(x)), x)
        drop = _drawn(self.mlp.drop1, hidden.shape, x.device)
        out = _lean(lambda hidden: self.mlp.fc2(drop(self.mlp.act(hidden))), hidden)
        out = _drawn(self.mlp.drop2, out.shape, x.device)(out)
        result = x + self.drop_path2(self.ls2(out))
        return result

    def _attended(self, x: Tensor) -> Tensor:
        attention = self.attn
        qkv = _lean(lambda x: attention.qkv(self.norm1(x)), x)
        split = qkv.view(*x.shape[:2], 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
        queries, keys, values = split.unbind(0)  # each B, heads, N, C / heads
        dropout = attention.attn_drop.p if self.training else 0.0
        if x.device.type == "cpu" and (dropout or queries.dtype == torch.bfloat16):
            # torch's fused attention has no dropout on a CPU, and takes twice as long in bfloat16
            drop = _drawn(attention.attn_drop, (*queries.shape[:3], keys.shape[2]), x.device)
            mixed = _lean(lambda q, k, v: drop(_similarities(q, k)) @ v, queries, keys, values)
        else:
            mixed = F.scaled_dot_product_attention(queries, keys, values, dropout_p=dropout)
        out: Tensor = attention.proj(mixed.transpose(1, 2).flatten(2))
        return _drawn(attention.proj_drop, out.shape, x.device)(out)


def _similarities(queries: Tensor, keys: Tensor) -> Tensor:
    scaled: Tensor = queries * queries.shape[-1] ** -0.5
    return (scaled @ keys.mT).softmax(-1)


def _lean(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Return function(*inputs) and store only the inputs for the backward pass.

    subtle: the repeated computation ends before the last matrix product, which stores only its own inputs.
    """
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return function(*inputs)
    result: Tensor = checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
    return result


def _drawn(dropout: nn.Dropout, shape: Sequence[int], device: torch.device) -> Callable[[Tensor], Tensor]:
    """Draw the dropped elements once, from torch's global generator, and return a function that drops them.

    On a CPU each element takes 16 random bits. That is several times as fast as torch's dropout, and the
    share of dropped elements is exact to 1/65536.
    """
    share = dropout.p if dropout.training else 0.0
    if not share:
        return lambda x: x
    if torch.compiler.is_compiling():
        return dropout
    if device.type != "cpu":
        dropped = torch.rand(shape, device=device) < share
        return lambda x: x.masked_fill(dropped, 0.0) / (1 - share)
    count, limit = math.prod(shape), round(share * _CHANCES)
    words = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
    dropped = (words.view(torch.int16)[:count] < limit - _CHANCES // 2).view(shape)
    factor = _CHANCES / (_CHANCES - limit) if limit < _CHANCES else 0.0
    return lambda x: x.masked_fill(dropped, 0.0) * factor
