"""Which sample comes when: pure functions of sizes, seed and epoch, without files, network or state.

An order maps the positions of an epoch to rows; `Steps` cuts the positions into the batches of every rank.
"""

from __future__ import annotations

from tokenstore.sampling.blocks import BlockShuffle, bounded_starts
from tokenstore.sampling.mixture import Mixture, Stopping
from tokenstore.sampling.order import Order, Sequential
from tokenstore.sampling.permutation import Permutation, key_words
from tokenstore.sampling.quality import ShuffleQuality, shuffle_quality
from tokenstore.sampling.steps import Steps

__all__ = [
    "BlockShuffle",
    "Mixture",
    "Order",
    "Permutation",
    "Sequential",
    "ShuffleQuality",
    "Steps",
    "Stopping",
    "bounded_starts",
    "key_words",
    "shuffle_quality",
]
