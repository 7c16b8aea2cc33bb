"""Sampling: the order in which samples come, as pure functions of sizes, seed and epoch.

An order maps the positions of an epoch to row numbers: `Sequential` (as stored), `Permutation` (a full
shuffle), `BlockShuffle` (blocks, then rows within windows), `LaneShuffle` (the same in lanes, of which each
rank takes its own), `Mixture` (several sources in proportion) and `Listed` (as a list says).
`Steps` cuts the positions into the batches of every rank, `Spans` into what is fetched at once.
`shuffle_quality` measures an order.
The compiled loops are in `feistel.py`, `lane_rows.py` and `turns.py`, which are imported on first use, and
numba with them.

May import: numpy, `errors`, `machine`, `randomness`; never files, network, torch, or the rest of `loading`.
"""

from __future__ import annotations

from tokenstore.loading.sampling.blocks import BlockShuffle, bounded_starts
from tokenstore.loading.sampling.lanes import EqualRuns, LaneShuffle
from tokenstore.loading.sampling.mixture import Mixture, Stopping
from tokenstore.loading.sampling.order import Indices, Listed, Order, Sequential, whole_number
from tokenstore.loading.sampling.permutation import Permutation, load_kernels
from tokenstore.loading.sampling.quality import ShuffleQuality, shuffle_quality
from tokenstore.loading.sampling.spans import Spans
from tokenstore.loading.sampling.steps import Steps

__all__ = [
    "BlockShuffle",
    "EqualRuns",
    "Indices",
    "LaneShuffle",
    "Listed",
    "Mixture",
    "Order",
    "Permutation",
    "Sequential",
    "ShuffleQuality",
    "Spans",
    "Steps",
    "Stopping",
    "bounded_starts",
    "load_kernels",
    "shuffle_quality",
    "whole_number",
]
