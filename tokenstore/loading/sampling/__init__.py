"""Which sample comes when: pure functions of sizes, seed and epoch, without files, network or state.

An order maps the positions of an epoch to rows; `Steps` cuts the positions into the batches of every rank.
"""

from __future__ import annotations

from tokenstore.loading.sampling.blocks import BlockShuffle, bounded_starts
from tokenstore.loading.sampling.mixture import Mixture, Stopping
from tokenstore.loading.sampling.order import Order, Sequential
from tokenstore.loading.sampling.permutation import Permutation
from tokenstore.loading.sampling.quality import ShuffleQuality, shuffle_quality
from tokenstore.loading.sampling.steps import Steps
from tokenstore.randomness import key_words

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
