"""A context model's tables as tensors on a device, laid out for decoding many samples side by side.

Lanes are (32, halves). The first half is the input of a code tree's first decision. Models with further
decisions have a second half, the input of those decisions.
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
"""The bytes that a decoder takes from a stream before its first decision."""


@dataclass(frozen=True)
class PlanePlan:
    """The numbers of one plane, and the starts of its part of each table."""

    fan: int
    levels: int
    logit_shift: int
    fade: int
    past: int
    """The plane's first row of `Tables.past`."""
    order: int
    """The plane's first place in `Tables.order`."""
    first_nodes: tuple[int, ...]
    """The first node of each level in the tables of nodes."""
    bases: tuple[int, ...]
    """The row of `Tables.rows` for no code, for each context; the row of code c is c + 1 further."""


@dataclass(frozen=True)
class Tables:
    """The tables of all planes, one after another."""

    grid: tuple[int, ...]
    planes: tuple[PlanePlan, ...]
    neighbours: Tensor
    """The positions of each position's contexts (L, contexts) int32; L for a context outside the grid."""
    rows: Tensor
    """The rows that contexts add to the hidden lanes (R, 32, halves) int8; the last row is zero."""
    past: Tensor
    """The rows that preceding codes add to mean and trace (P, 2, 32, halves) int8; zeros for no code."""
    bias: Tensor
    """The hidden lanes' bias (planes, 32, halves) int32."""
    weights: Tensor
    """The lanes' weights for each node and alternative (nodes, 32, 32) int8."""
    biases: Tensor
    """The alternatives' bias (nodes, 32) int32, in the units of weighed lanes."""
    alternatives: Tensor
    """The number of alternatives of each node (nodes,) int32."""
    order: Tensor
    """The planes' codes by rank (codes,) int32."""

    @property
    def codes_per_sample(self) -> int:
        """The number of codes of a sample, L."""
        return math.prod(self.grid)

    @property
    def longest_stream(self) -> int:
        """The most bytes of a stream that decoding looks at."""
        decisions = sum(plane.levels for plane in self.planes) * (self.codes_per_sample // len(self.planes))
        return STREAM_HEAD + LONGEST_DECISION * decisions


def device_tables(model: ContextModel, grid: tuple[int, ...], device: torch.device) -> Tables:
    """Return a model's tables over a grid. Raises CodecError where the model does not fit the grid."""
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
    """Return the rows of all contexts, the rows of the past, and each plane's `bases`."""
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
    # A plane's readers are in the order in which the contexts of all planes read the plane.
    bases = []
    for number in range(len(model.planes)):
        first_rows = []
        for source in model.sources(number):
            first_rows.append(starts[source])
            starts[source] += 1 + model.planes[source].size
        bases.append(tuple(first_rows))
    return _side_by_side(np.concatenate(of_contexts)), _side_by_side(np.concatenate(of_past)), bases


def _side_by_side(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Turn lanes (..., halves * 32) to (..., 32, halves)."""
    return np.swapaxes(array.reshape(*array.shape[:-1], -1, LANES), -1, -2)
