"""SeiT's networks as their descriptions read, for bench_train.py; parameters have the published names."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPSILON = 1e-6


class PlainBlock(nn.Module):
    """A block: x + attention(norm(x)), then x + mlp(norm(x)).

    All similarities (B, heads, N, N) are in memory at once.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, EPSILON), nn.LayerNorm(width, EPSILON)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, N, C) for x (B, N, C)."""
        batch, places, width = x.shape
        qkv = self.attn["qkv"](self.norm1(x)).view(batch, places, 3, self.heads, width // self.heads)
        queries, keys, values = qkv.permute(2, 0, 3, 1, 4)
        weights = (queries @ keys.mT / math.sqrt(width // self.heads)).softmax(-1)
        mixed = (self.dropout(weights) @ values).transpose(1, 2).flatten(2)
        x = x + self.dropout(self.attn["proj"](mixed))
        hidden = self.dropout(F.gelu(self.mlp["fc1"](self.norm2(x))))
        return x + self.dropout(self.mlp["fc2"](hidden))


class PlainTokenEmbedding(nn.Module):
    """A table from codes (B, H, W) to learned vectors (B, C, H, W)."""

    def __init__(self, codes: int, channels: int) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(codes, channels)
        self.LayerNorm = nn.LayerNorm(channels, EPSILON)
        self.dropout = nn.Dropout(0.1)

    def forward(self, codes: Tensor) -> Tensor:
        """Return vectors (B, C, H, W) of codes (B, H, W)."""
        vectors: Tensor = self.dropout(self.LayerNorm(self.word_embeddings(codes)))
        return vectors.permute(0, 3, 1, 2)


class PlainMaskedModel(nn.Module):
    """The masked model: the loss of codes (B, H, W), with logits of every token, masked or not."""

    pos_embed: Tensor

    def __init__(self, codes: int, channels: int, side: int, width: int, heads: int) -> None:
        super().__init__()
        places = (side // 2) ** 2
        self.side, self.channels = side, channels
        self.token_emb = PlainTokenEmbedding(codes, channels)
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(channels, width, 2, stride=2)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.mask_token_label = nn.Parameter(torch.zeros(1, 1, width))
        self.register_buffer("pos_embed", torch.zeros(1, 1 + places, width))
        self.blocks = nn.Sequential(*(PlainBlock(width, heads) for _ in range(12)))
        self.norm = nn.LayerNorm(width, EPSILON)
        self.decoder_embed = nn.Linear(width, 512)
        self.decoder_pos_embed_learned = nn.Parameter(torch.zeros(1, 1 + places, 512))
        self.decoder_blocks = nn.Sequential(*(PlainBlock(512, 16, 0.1) for _ in range(4)))
        self.decoder_norm = nn.LayerNorm(512, EPSILON)
        self.mlm_layer = nn.ModuleDict({"fc": nn.Linear(512, 4 * channels), "ln": nn.LayerNorm(channels)})
        self.mlm_layer.bias = nn.Parameter(torch.zeros(1, 1, codes))

    def forward(self, codes: Tensor, visible: Tensor, masked: Tensor) -> Tensor:
        """Return the loss, given the places of patches `kept` (B, N - dropped) and `masked` (B, M)."""
        batch, half = len(codes), self.side // 2
        x = self.patch_embed["proj"](self.token_emb(codes)).flatten(2).transpose(1, 2)
        hidden = torch.zeros(batch, half * half, device=codes.device).scatter(1, masked, 1)
        at_masked = hidden[..., None].bool()
        x = torch.where(at_masked, self.mask_token_label, x) + self.pos_embed[:, 1:]
        x = x.gather(1, visible[..., None].expand(-1, -1, x.shape[2]))
        token = (self.cls_token + self.pos_embed[:, :1]).expand(batch, -1, -1)
        x = self.decoder_embed(self.norm(self.blocks(torch.cat((token, x), 1))))
        token, x = x[:, :1], x[:, 1:]
        filled = token.repeat(1, half * half, 1)
        filled = filled.scatter(1, visible[..., None].expand_as(x), x)
        filled = torch.where(at_masked, token, filled)
        x = torch.cat((token, filled), 1) + self.decoder_pos_embed_learned
        x = self.mlm_layer["fc"](self.decoder_norm(self.decoder_blocks(x))[:, 1:])
        x = x.view(batch, half, half, 2, 2, self.channels).transpose(2, 3)
        x = self.mlm_layer["ln"](F.gelu(x.reshape(batch, self.side**2, self.channels)))
        logits = x @ self.token_emb.word_embeddings.weight.detach().T + self.mlm_layer.bias
        losses = F.cross_entropy(logits.transpose(1, 2), codes.flatten(1), reduction="none")
        by_patch = losses.view(batch, half, 2, half, 2).mean((2, 4)).flatten(1)
        return (by_patch * hidden).sum() / hidden.sum()


class PlainClassifier(nn.Module):
    """A classifier of vectors (B, C, H, W), or of codes (B, H, W) where `codes` is their number."""

    def __init__(
        self, codes: int | None, channels: int, side: int, width: int, heads: int, classes: int
    ) -> None:
        super().__init__()
        if codes is None:
            stem = nn.Conv2d(channels, width, 4, stride=2, padding=1)
        else:
            self.token_emb = PlainTokenEmbedding(codes, channels)
            stem = nn.Conv2d(channels, width, 2, stride=2)
        self.patch_embed = nn.ModuleDict({"proj": stem})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (side // 2) ** 2, width))
        self.blocks = nn.Sequential(*(PlainBlock(width, heads) for _ in range(12)))
        self.norm = nn.LayerNorm(width, EPSILON)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, classes)."""
        if not x.is_floating_point():
            x = self.token_emb(x)
        x = self.patch_embed["proj"](x).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), 1) + self.pos_embed
        logits: Tensor = self.head(self.norm(self.blocks(x)[:, 1:].mean(1)))
        return logits
