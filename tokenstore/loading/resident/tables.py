"""A context model's tables as tensors on a device, laid out for decoding many samples side by side.

Lanes stand as (32, halves): the lane that a code tree's first decision sees, and, in models with further
decisions, beside it the one that those see.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tokenstore.codecs.context.constants import LANES, LONGEST_DECISION
from tokenstore.codecs.context.contexts import neighbours
from tokenstore.codecs.context.model import PAST_ROWS, ContextModel
from tokenstore.codecs.context.streams import check_grid, packed_weights

STREAM_HEAD = 4
"""Bytes that a decoder takes from a stream before its first decision."""


@dataclass(frozen=True)
class PlanePlan:
    """One plane's numbers, and where its part of each table begins."""

    fan: int
    levels: int
    logit_shift: int
    fade: int
    past: int
    order: int
    first_nodes: tuple[int, ...]
    bases: tuple[int, ...]
    """For each context the row of no code; code c has the row c + 1 behind it."""


@dataclass(frozen=True)
class Tables:
    """All planes' tables, one after another."""

    grid: tuple[int, ...]
    planes: tuple[PlanePlan, ...]
    neighbours: Tensor
    """Positions that a position's contexts are at (L, contexts) int32; L where that is outside."""
    rows: Tensor
    """What contexts add to the hidden lanes (R, 32, halves) int8; the last row is zero."""
    past: Tensor
    """What preceding codes add to mean and trace (P, 2, 32, halves) int8; zeros for none."""
    bias: Tensor
    """(planes, 32, halves) int32"""
    weights: Tensor
    """Of each node and alternative what the lanes weigh (nodes, 32, 32) int8."""
    biases: Tensor
    """(nodes, 32) int32, in the units of weighed lanes."""
    alternatives: Tensor
    """How many a node has (nodes,) int32."""
    order: Tensor
    """Codes by rank int32."""

    @property
    def codes_per_sample(self) -> int:
        return math.prod(self.grid)

    @property
    def longest_stream(self) -> int:
        """Bytes of a stream that decoding looks at, at most."""
        decisions = sum(plane.levels for plane in self.planes) * (self.codes_per_sample // len(self.planes))
        return STREAM_HEAD + LONGEST_DECISION * decisions


def tables(model: ContextModel, grid: tuple[int, ...], device: torch.device) -> Tables:
    """The tables of a model over a grid; raises CodecError where the grid is none of the model's."""
    check_grid(model, grid)
    rows, past, bases = _rows(model)
    weights, biases, alternatives, plans = [], [], [], []
    first_node = first_past = first_order = 0
    for number, plane in enumerate(model.planes):
        tree = plane.tree
        packed, bias = packed_weights(plane)
        weights.append(packed.transpose(0, 2, 1, 3).reshape(-1, LANES, LANES).astype(np.int8))
        biases.append(bias)
        alternatives.append(np.bincount(tree.child_places()[0], minlength=tree.nodes).astype(np.int32))
        plans.append(
            PlanePlan(
                tree.fan,
                tree.levels,
                plane.logit_shift,
                plane.fade,
                first_past,
                first_order,
                tuple(first_node + node for node in tree.first_nodes()),
                bases[number],
            )
        )
        first_node += tree.nodes
        first_past += 1 + plane.size
        first_order += plane.size

    def tensor(array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)

    return Tables(
        grid,
        tuple(plans),
        tensor(neighbours([plane.contexts for plane in model.planes], grid).astype(np.int32)),
        tensor(rows),
        tensor(past),
        tensor(_side_by_side(np.stack([plane.bias for plane in model.planes]).astype(np.int32))),
        tensor(np.concatenate(weights)),
        tensor(np.concatenate(biases)),
        tensor(np.concatenate(alternatives)),
        tensor(np.concatenate([plane.order for plane in model.planes]).astype(np.int32)),
    )


def _rows(
    model: ContextModel,
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int8], list[tuple[int, ...]]]:
    """Rows of all contexts, rows of the past, and for each plane where its contexts' rows begin."""
    of_contexts, of_past, starts = [], [], []
    start = 0
    for source in range(len(model.planes)):
        table = model.rows(source)
        starts.append(start)
        start += table.shape[1] * (len(table) - PAST_ROWS)
        of_contexts.append(table[:-PAST_ROWS].reshape(-1, model.lanes))
        past = table[-PAST_ROWS:].transpose(1, 0, 2).copy()
        past[0] = 0
        of_past.append(past)
    of_contexts.append(np.zeros((1, model.lanes), np.int8))
    # Readers of a plane stand in the order in which contexts of all planes look at it.
    bases = []
    for number in range(len(model.planes)):
        here = []
        for source in model.sources(number):
            here.append(starts[source])
            starts[source] += 1 + model.planes[source].size
        bases.append(tuple(here))
    return _side_by_side(np.concatenate(of_contexts)), _side_by_side(np.concatenate(of_past)), bases


def _side_by_side(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(..., halves * 32) -> (..., 32, halves)"""
    return np.swapaxes(array.reshape(*array.shape[:-1], -1, LANES), -1, -2)
