"""The names of ImageNet's 1,000 classes in their usual order: WordNet ids, as class folders have them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

__all__ = ["imagenet_classes"]


@cache
def imagenet_classes() -> tuple[str, ...]:
    """Return the 1,000 WordNet ids, such as n01440764, by label."""
    return tuple(Path(__file__).with_suffix(".txt").read_text(encoding="ascii").split())
