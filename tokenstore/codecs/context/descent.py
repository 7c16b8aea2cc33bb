"""Stochastic gradient descent on the parameters of a context model, in float32."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Self

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
_Floats = npt.NDArray[np.float32]

COMPONENTS = 64
"""The components of a code."""
LARGE_CODEBOOK = 4096
"""The most codes of a usual codebook. The time of a fit grows with the codebook, so larger ones get half the
components and contexts, batches twice as large, and fewer passes."""
RATE = 2e-2
"""The highest learning rate."""
PARTS = 2
"""The parts of a batch whose gradients are computed in threads. The number is fixed, since it decides the
order of sums, and so the model."""


@dataclass(frozen=True, eq=False)
class FitPlane:
    """The structure of one codebook's part of a model, which a fit takes as given."""

    size: int
    contexts: npt.NDArray[np.int8]
    """The offsets of the contexts along the grid's axes (m, rank)."""
    sources: list[int]
    """The plane that each context looks at."""
    order: npt.NDArray[np.uint32]
    """The codes by rank in the tree (K,)."""
    fade: int

    @property
    def tree(self) -> CodeTree:
        """The tree of decisions that names a code."""
        return CodeTree.of(self.size)


@dataclass(frozen=True, eq=False)
class FitSamples:
    """The samples of codes that a model is fitted to, made when they are drawn."""

    count: int
    grid: tuple[int, ...]
    draw: Callable[[npt.NDArray[np.int64]], Codes]
    """The codes (n, *grid) of samples by their numbers (n,)."""

    @classmethod
    def of(cls, codes: Codes) -> Self:
        """Return samples of codes (n, *grid) in memory."""
        return cls(len(codes), codes.shape[1:], codes.__getitem__)

    def spread(self, most: int) -> Codes:
        """Return the codes (n, *grid) of at most `most` samples, at even distances."""
        return self.draw(np.unique(np.linspace(0, self.count - 1, most, dtype=np.int64)))


@dataclass(frozen=True, eq=False)
class _Batch:
    """The tables of the codes that occur in a batch of samples (n, L), and the samples' places in them."""

    rows: npt.NDArray[np.int64]
    """Each code's first row in its plane's table (n, L); a code has a row for each reader of its plane."""
    ranks: npt.NDArray[np.int64]
    """Each code's rank in its tree (n, L)."""
    used: list[npt.NDArray[np.int64]]
    """For each plane, the row of `Descent.codes` of each code in its table."""
    starts: list[int]
    """The first row of each plane's table in `table`."""
    table: npt.NDArray[np.float32]
    """The tables of all planes (rows, lanes): code by code, its row for each reader."""
    bases: npt.NDArray[np.int64]
    """The row of each plane's contexts for the first code of the table (planes, contexts)."""
    pasts: npt.NDArray[np.int64]
    """The rows of each plane's mean and trace for the first code of the table (planes, 2)."""


def _product(left: _Floats, right: _Floats, pool: ThreadPoolExecutor) -> _Floats:
    """Return the product of matrices (m, k) and (k, n), whose rows are computed in parts by threads."""
    out = np.empty((len(left), right.shape[1]), np.float32)

    def part(index: int) -> None:
        mine = slice(index * len(left) // PARTS, (index + 1) * len(left) // PARTS)
        np.matmul(left[mine], right, out=out[mine])

    list(pool.map(part, range(PARTS)))
    return out


class Descent:
    """The parameters of a model in float32, with the state of their descent."""

    def __init__(
        self, planes: list[FitPlane], grid: tuple[int, ...], seed: int, given_per_plane: int = 0
    ) -> None:
        self.planes = planes
        self.grid = grid
        self.given_per_plane = given_per_plane
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
        self.readers = [normal(width, many, self.lanes, scale=0.3 / math.sqrt(width)) for many in readers]
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
        self, samples: FitSamples, steps: int, batch: int, on_step: Callable[[], None] = lambda: None
    ) -> None:
        """Fit to batches of samples, each drawn as often as any other; -1 among given codes is no code.

        The learning rate rises for a tenth of the steps, then falls to zero along a cosine.
        """
        places = neighbours([plane.contexts for plane in self.planes], self.grid).astype(np.int64)
        ranks = self._ranks()
        of_a_sample = math.prod(samples.grid) // len(self.planes) - self.given_per_plane
        weight = np.float32(2 / (samples.count * of_a_sample))
        drawn: list[int] = []
        with ThreadPoolExecutor(PARTS) as pool:
            for step in range(steps):
                while len(drawn) < batch:
                    drawn.extend(self._random.permutation(samples.count).tolist())
                numbers, drawn = drawn[:batch], drawn[batch:]
                done = step / steps
                rate = RATE * (done / 0.1 if done < 0.1 else (1 + math.cos(math.pi * (done - 0.1) / 0.9)) / 2)
                codes = samples.draw(np.array(numbers)).reshape(batch, -1).astype(np.int64)
                self._step(codes, places, ranks, rate, weight, pool)
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
        batch = self._batch(samples, ranks, pool)

        def part(index: int) -> tuple[Any, Any, Any]:
            mine = slice(index * len(samples) // PARTS, (index + 1) * len(samples) // PARTS)
            slopes = np.zeros_like(batch.table), np.zeros_like(self.bias), np.zeros_like(self.weights)
            gradients.accumulate(
                batch.rows[mine], batch.ranks[mine], self.given_per_plane, places, batch.bases, batch.pasts,
                self.shapes, self.nodes, self.fades, batch.table, self.bias, self.weights, *slopes,
            )  # fmt: skip
            return slopes

        (slope, bias_slope, weights_slope), *others = pool.map(part, range(PARTS))
        for other in others:
            slope += other[0]
            bias_slope += other[1]
            weights_slope += other[2]
        slopes = []
        reader_slopes = []
        for at, used in enumerate(batch.used):
            mine = slope[batch.starts[at] : batch.starts[at] + len(used) * self._readers[at]]
            mine = mine.reshape(len(used), -1)
            whole = np.zeros_like(self.codes[at])
            whole[used] = _product(mine, self.readers[at].reshape(self.components, -1).T, pool)
            slopes.append(whole)
            reader_slopes.append(_product(mine.T, self.codes[at][used], pool).T)
        self._steps += 1
        scale = np.float32(number / self._coded(samples))
        all_slopes = [*slopes, *reader_slopes, bias_slope, weights_slope]
        for values, own, (first, second) in zip(self._parameters(), all_slopes, self._moments, strict=True):
            gradients.adam(
                values.reshape(-1), np.ascontiguousarray(own).reshape(-1), scale, decay,
                first.reshape(-1), second.reshape(-1), np.float32(rate), self._steps,
            )  # fmt: skip

    def _coded(self, samples: Codes) -> int:
        """Return the number of codes of samples (n, L) that are not given."""
        return samples.size - len(samples) * len(self.planes) * self.given_per_plane

    def _batch(self, samples: Codes, ranks: list[npt.NDArray[np.int64]], pool: ThreadPoolExecutor) -> _Batch:
        """Compute the tables of the codes that occur in samples (n, L), and the samples' rows in them."""
        number = len(self.planes)
        per_plane = samples.shape[1] // number
        rows = np.empty(samples.shape, np.int64)
        ranked = np.empty(samples.shape, np.int64)
        all_used, tables, starts = [], [], []
        start = 0
        for at in range(number):
            here = slice(at * per_plane, (at + 1) * per_plane)
            unique, inverse = np.unique(samples[:, here], return_inverse=True)
            any_missing = int(unique[0] < 0)
            places = inverse.reshape(len(samples), per_plane) + 1 - any_missing
            rows[:, here] = places * self._readers[at]
            ranked[:, here] = ranks[at][samples[:, here]]
            used = np.concatenate([[0], unique[any_missing:].astype(np.int64) + 1])
            all_used.append(used)
            # subtle: one product of large matrices for all readers takes a tenth of the time of one each
            tables.append(_product(self.codes[at][used], self.readers[at].reshape(self.components, -1), pool))
            starts.append(start)
            start += len(used) * self._readers[at]
        table = np.concatenate([each.reshape(-1, self.lanes) for each in tables])
        bases = np.zeros((number, max(len(p.contexts) for p in self.planes)), np.int64)
        pasts = np.zeros((number, PAST_ROWS), np.int64)
        readers = [0] * number
        for at, plane in enumerate(self.planes):
            for context, source in enumerate(plane.sources):
                bases[at, context] = starts[source] + readers[source]
                readers[source] += 1
        for at in range(number):
            pasts[at] = starts[at] + readers[at] + np.arange(PAST_ROWS)
        return _Batch(rows, ranked, all_used, starts, table, bases, pasts)

    def _ranks(self) -> list[npt.NDArray[np.int64]]:
        ranks = []
        for plane in self.planes:
            rank = np.empty(plane.size, np.int64)
            rank[plane.order] = np.arange(plane.size)
            ranks.append(rank)
        return ranks

    def regrouped(self) -> list[FitPlane]:
        """Return the planes with their codes ordered anew, by their rows for the nearest four contexts."""
        planes = []
        for at, plane in enumerate(self.planes):
            if plane.tree.levels > 1:
                nearest = self.readers[at][:, :4]
                vectors = self.codes[at][1:] @ nearest.reshape(self.components, -1)
                planes.append(replace(plane, order=grouped_order(vectors, plane.tree)))
            else:
                planes.append(plane)
        return planes

    def result(self) -> list[FittedPlane]:
        """Return the fitted planes, in floats."""
        fitted = []
        for at, plane in enumerate(self.planes):
            node, digit = plane.tree.child_places()
            fitted.append(
                FittedPlane(
                    plane.order,
                    plane.contexts,
                    self.codes[at],
                    self.readers[at],
                    self.bias[at],
                    self.weights[self.first_nodes[at] + node, :, digit],
                    plane.fade,
                )
            )
        return fitted
