"""Stochastic gradient descent on a context model in float32."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenstore.codecs.context import gradients
from tokenstore.codecs.context.constants import LANES, MAX_LEVELS
from tokenstore.codecs.context.contexts import neighbours
from tokenstore.codecs.context.grouping import grouped_order
from tokenstore.codecs.context.model import PAST_ROWS, lanes_for
from tokenstore.codecs.context.quantising import FittedPlane
from tokenstore.codecs.context.tree import CodeTree

Codes = npt.NDArray[Any]

COMPONENTS = 64
LARGE_CODEBOOK = 4096
"""Larger ones get half the components and contexts, twice the batch, fewer passes: these grow with them."""
RATE = 2e-2
PARTS = 2
"""Gradients are summed over so many parts of a batch, in threads; fixed, so that their number decides
nothing."""


@dataclass
class FitPlane:
    """What fitting one codebook's part needs, and where it is in the arrays shared by all."""

    size: int
    contexts: npt.NDArray[np.int8]
    sources: list[int]
    order: npt.NDArray[np.uint32]
    fade: int

    @property
    def tree(self) -> CodeTree:
        return CodeTree.of(self.size)


def steps_of(epochs: float, samples: int, batch: int) -> int:
    """Steps of so many passes over the samples."""
    return max(1, round(epochs * samples / batch))


class Descent:
    """Parameters of a model in float32, and descent on them."""

    def __init__(self, planes: list[FitPlane], grid: tuple[int, ...], seed: int) -> None:
        self.planes = planes
        self.grid = grid
        self._random = random = np.random.default_rng(seed)
        number = len(planes)
        self.lanes = lanes_for([plane.size for plane in planes])
        largest = max(plane.size for plane in planes)
        self.components = COMPONENTS // 2 if largest > LARGE_CODEBOOK else min(COMPONENTS, largest + 1)
        readers = [PAST_ROWS + sum(p.sources.count(q) for p in planes) for q in range(number)]

        def normal(*shape: int, scale: float) -> npt.NDArray[np.float32]:
            return (random.standard_normal(shape) * scale).astype(np.float32)

        width = self.components
        self.codes = [normal(1 + plane.size, width, scale=0.3) for plane in planes]
        self.readers = [normal(many, width, self.lanes, scale=0.3 / math.sqrt(width)) for many in readers]
        self.bias = np.zeros((number, self.lanes), np.float32)
        nodes = [plane.tree.nodes for plane in planes]
        self.weights = normal(max(1, sum(nodes)), LANES + 1, LANES, scale=0.1)
        self.weights[:, LANES] = 0
        self.first_nodes = [sum(nodes[:at]) for at in range(number)]
        self.nodes = np.zeros((number, 2 * MAX_LEVELS), np.int64)
        self.shapes = np.zeros((number, 3), np.int64)
        for at, plane in enumerate(planes):
            tree = plane.tree
            self.shapes[at] = len(plane.contexts), tree.levels, tree.fan
            for level, first in enumerate(tree.first_nodes()):
                self.nodes[at, level] = self.first_nodes[at] + first
                self.nodes[at, MAX_LEVELS + level] = tree.children_at(level)
        self.fades = np.array([2.0**-plane.fade for plane in planes], np.float32)
        self._readers = readers
        self._steps = 0
        self._moments = [(np.zeros_like(p), np.zeros_like(p)) for p in self._parameters()]

    def _parameters(self) -> list[npt.NDArray[np.float32]]:
        return [*self.codes, *self.readers, self.bias, self.weights]

    def descend(
        self, samples: Codes, epochs: float, batch: int, on_step: Callable[[], None] = lambda: None
    ) -> None:
        """`epochs` passes over samples of codes (n, L), the rate rising for a tenth and then falling to
        nothing."""
        total = steps_of(epochs, len(samples), batch)
        places = neighbours([plane.contexts for plane in self.planes], self.grid).astype(np.int64)
        ranks = self._ranks()
        weight = np.float32(2 / (samples.size / len(self.planes)))
        drawn: list[int] = []
        with ThreadPoolExecutor(PARTS) as pool:
            for step in range(total):
                while len(drawn) < batch:
                    drawn.extend(self._random.permutation(len(samples)).tolist())
                chosen, drawn = drawn[:batch], drawn[batch:]
                done = step / total
                rate = RATE * (done / 0.1 if done < 0.1 else (1 + math.cos(math.pi * (done - 0.1) / 0.9)) / 2)
                self._step(samples[np.array(chosen)], places, ranks, rate, weight, pool)
                on_step()

    def _step(
        self,
        samples: Codes,
        places: Codes,
        ranks: list[npt.NDArray[np.int64]],
        rate: float,
        decay: np.float32,
        pool: ThreadPoolExecutor,
    ) -> None:
        number = len(self.planes)
        per_plane = samples.shape[1] // number
        rows = np.empty(samples.shape, np.int64)
        ranked = np.empty(samples.shape, np.int64)
        present, tables, starts = [], [], []
        start = 0
        for at in range(number):
            here = slice(at * per_plane, (at + 1) * per_plane)
            unique, inverse = np.unique(samples[:, here], return_inverse=True)
            rows[:, here] = inverse.reshape(len(samples), per_plane) + 1
            ranked[:, here] = ranks[at][samples[:, here]]
            used = np.concatenate([[0], unique.astype(np.int64) + 1])
            present.append(used)
            tables.append(np.matmul(self.codes[at][used], self.readers[at]))  # (readers, rows, lanes)
            starts.append(start)
            start += len(used) * self._readers[at]
        table = np.concatenate([each.reshape(-1, self.lanes) for each in tables])
        bases = np.zeros((number, max(len(p.contexts) for p in self.planes)), np.int64)
        pasts = np.zeros((number, PAST_ROWS), np.int64)
        heard = [0] * number
        for at, plane in enumerate(self.planes):
            for context, source in enumerate(plane.sources):
                bases[at, context] = starts[source] + heard[source] * len(present[source])
                heard[source] += 1
        for at in range(number):
            pasts[at] = starts[at] + (heard[at] + np.arange(PAST_ROWS)) * len(present[at])

        def part(index: int) -> tuple[Any, Any, Any]:
            mine = slice(index * len(samples) // PARTS, (index + 1) * len(samples) // PARTS)
            slopes = np.zeros_like(table), np.zeros_like(self.bias), np.zeros_like(self.weights)
            gradients.accumulate(
                rows[mine], ranked[mine], places, bases, pasts, self.shapes, self.nodes, self.fades,
                table, self.bias, self.weights, *slopes,
            )  # fmt: skip
            return slopes

        (slope, bias_slope, weights_slope), *others = pool.map(part, range(PARTS))
        for other in others:
            slope += other[0]
            bias_slope += other[1]
            weights_slope += other[2]
        slopes = []
        reader_slopes = []
        for at, used in enumerate(present):
            mine = slope[starts[at] : starts[at] + len(used) * self._readers[at]]
            mine = mine.reshape(self._readers[at], len(used), self.lanes)
            whole = np.zeros_like(self.codes[at])
            whole[used] = np.matmul(mine, self.readers[at].transpose(0, 2, 1)).sum(axis=0)
            slopes.append(whole)
            reader_slopes.append(np.matmul(self.codes[at][used].T, mine))
        self._steps += 1
        scale = np.float32(number / samples.size)
        gradient = [*slopes, *reader_slopes, bias_slope, weights_slope]
        for values, moved, (first, second) in zip(self._parameters(), gradient, self._moments, strict=True):
            gradients.adam(
                values.reshape(-1), np.ascontiguousarray(moved).reshape(-1), scale, decay,
                first.reshape(-1), second.reshape(-1), np.float32(rate), self._steps,
            )  # fmt: skip

    def _ranks(self) -> list[npt.NDArray[np.int64]]:
        ranks = []
        for plane in self.planes:
            rank = np.empty(plane.size, np.int64)
            rank[plane.order] = np.arange(plane.size)
            ranks.append(rank)
        return ranks

    def regroup(self) -> None:
        """Order the codes anew, by what they tell of the codes after them."""
        for at, plane in enumerate(self.planes):
            if plane.tree.levels > 1:
                told = np.matmul(self.codes[at][1:], self.readers[at][:4])
                plane.order = grouped_order(np.concatenate(list(told), axis=1), plane.tree)

    def result(self) -> list[FittedPlane]:
        fitted = []
        for at, plane in enumerate(self.planes):
            node, digit = plane.tree.child_places()
            fitted.append(
                FittedPlane(
                    plane.order,
                    plane.contexts,
                    self.codes[at],
                    np.ascontiguousarray(self.readers[at].transpose(1, 0, 2)),
                    self.bias[at],
                    self.weights[self.first_nodes[at] + node, :, digit],
                    plane.fade,
                )
            )
        return fitted
