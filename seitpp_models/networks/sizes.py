"""The sizes of vision transformers by name, from Ti to L of DeiT, https://arxiv.org/abs/2012.12877."""

from __future__ import annotations

from dataclasses import dataclass

from tokenstore.errors import did_you_mean

__all__ = ["SIZES", "TransformerSize", "size_named"]


@dataclass(frozen=True)
class TransformerSize:
    """The width of a transformer's tokens, the number of its blocks, and the heads of each block."""

    width: int
    depth: int
    heads: int


SIZES = {
    "tiny": TransformerSize(width=192, depth=12, heads=3),
    "small": TransformerSize(width=384, depth=12, heads=6),
    "base": TransformerSize(width=768, depth=12, heads=12),
    "large": TransformerSize(width=1024, depth=24, heads=16),
}


def size_named(name: str) -> TransformerSize:
    """Return the size of that name; raises ValueError for a name that is not in SIZES."""
    if name not in SIZES:
        raise ValueError(f"size: expected one of {list(SIZES)}, found {name!r}{did_you_mean(name, SIZES)}")
    return SIZES[name]
