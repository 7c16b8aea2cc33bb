"""The gradients by which a context model is fitted: they equal finite differences of a plain loss."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from helpers.paths import SHARED

from tokenstore.codecs.context import descent, gradients
from tokenstore.codecs.context.contexts import context_offsets, neighbours

Codes = npt.NDArray[Any]
SEIT = SHARED / "data" / "seit-sample"


class _Problem:
    """Two codebooks, of one and of two levels, whose loss is a function of the parameters that are fitted."""

    def __init__(self, seed: int, given: int = 0) -> None:
        self.given = given
        random = np.random.default_rng(seed)
        self.grid, self.sizes = (2, 2, 3), (5, 40)
        contexts = [context_offsets(self.grid, plane, 2) for plane in range(2)]
        planes = [
            descent.FitPlane(
                size, offsets, [at + int(o[0]) for o in offsets], np.arange(size, dtype=np.uint32), 2
            )
            for at, (size, offsets) in enumerate(zip(self.sizes, contexts, strict=True))
        ]
        self.fit = descent.Descent(planes, self.grid, seed)
        self.places = neighbours([plane.contexts for plane in planes], self.grid).astype(np.int64)
        codes = np.stack([random.integers(0, size, (3, 6)) for size in self.sizes], axis=1).reshape(3, 12)
        self.codes, self.rows = codes, codes + 1
        readers = [2 + sum(plane.sources.count(q) for plane in planes) for q in range(2)]
        starts = [0, readers[0] * 6]
        self.bases, self.pasts = np.zeros((2, max(map(len, contexts))), np.int64), np.zeros((2, 2), np.int64)
        heard = [0, 0]
        for at, plane in enumerate(planes):
            for context, source in enumerate(plane.sources):
                self.bases[at, context] = starts[source] + heard[source] * (1 + self.sizes[source])
                heard[source] += 1
        for at, size in enumerate(self.sizes):
            self.pasts[at] = starts[at] + (heard[at] + np.arange(2)) * (1 + size)
        rows = sum(many * (1 + size) for many, size in zip(readers, self.sizes, strict=True))

        def normal(*shape: int) -> Codes:
            return random.standard_normal(shape) * 0.3

        self.parameters = [normal(rows, 64), normal(2, 64), normal(*self.fit.weights.shape)]
        self.planes = planes

    def accumulated(self) -> tuple[float, list[Codes]]:
        values = [value.astype(np.float32) for value in self.parameters]
        slopes = [np.zeros_like(value) for value in values]
        loss = gradients.accumulate(
            self.rows, self.codes, self.given, self.places, self.bases, self.pasts, self.fit.shapes,
            self.fit.nodes, self.fit.fades, *values, *slopes,
        )  # fmt: skip
        return loss, slopes

    def loss(self) -> float:
        """Compute the loss in float64 and in plain steps: mean and trace by definition, softmax by digits."""
        table, bias, weights = self.parameters
        total = 0.0
        for rows, codes in zip(self.rows, self.codes, strict=True):
            for at, plane in enumerate(self.planes):
                levels, fan = plane.tree.levels, plane.tree.fan
                own = rows[6 * at + self.given : 6 * at + 6]
                for seen in range(6 - self.given):
                    position = 6 * at + self.given + seen
                    mean_at, trace_at = self.pasts[at]
                    hidden = bias[at] + table[mean_at + own[:seen]].sum(axis=0) / (seen + 16)
                    for back, row in enumerate(own[:seen][::-1]):
                        hidden = hidden + 0.25 * 0.75**back * table[trace_at + row]
                    for context in range(len(plane.contexts)):
                        place = self.places[position, context]
                        hidden = hidden + table[self.bases[at, context] + (rows[place] if place < 12 else 0)]
                    rank, first = int(codes[position]), self.fit.first_nodes[at]
                    for level in range(levels):
                        prefix = rank // fan ** (levels - level)
                        node = first + plane.tree.first_nodes()[level] + prefix
                        children = min(fan, plane.tree.children_at(level) - prefix * fan)
                        heard = hidden[32:] if level else hidden[:32]
                        logits = (weights[node, 32] + heard @ weights[node, :32])[:children]
                        digit = rank // fan ** (levels - 1 - level) % fan
                        total += math.log(np.exp(logits - logits[digit]).sum())
        return total


@pytest.mark.parametrize("given", [0, 3], ids=["all codes", "the second row, given the first"])
def test_gradients_equal_finite_differences(given: int) -> None:
    """Float32 sums of some hundred terms of size 1 are right to about 1e-4; so are the differences."""
    problem = _Problem(0, given)
    loss, slopes = problem.accumulated()
    assert loss == pytest.approx(problem.loss(), rel=1e-5)
    random = np.random.default_rng(1)
    step, moved = 1e-5, 0
    for values, slope in zip(problem.parameters, slopes, strict=True):
        touched = np.flatnonzero(slope)
        for at in [*random.choice(touched, 40, replace=False), *random.integers(0, values.size, 10)]:
            kept = values.flat[at]
            values.flat[at] = kept + step
            above = problem.loss()
            values.flat[at] = kept - step
            below = problem.loss()
            values.flat[at] = kept
            assert slope.flat[at] == pytest.approx((above - below) / (2 * step), rel=1e-3, abs=2e-5)
            moved += abs(above - below) / (2 * step) > 1e-3
    assert moved > (60 if not given else 40)


def test_gradients_are_added_to_those_before() -> None:
    problem = _Problem(2)
    values = [value.astype(np.float32) for value in problem.parameters]
    once, twice = ([np.zeros_like(value) for value in values] for _ in range(2))
    arguments = (
        problem.rows, problem.codes, 0, problem.places, problem.bases, problem.pasts, problem.fit.shapes,
        problem.fit.nodes, problem.fit.fades, *values,
    )  # fmt: skip
    gradients.accumulate(*arguments, *once)
    gradients.accumulate(*arguments, *twice)
    gradients.accumulate(*arguments, *twice)
    for one, two in zip(once, twice, strict=True):
        np.testing.assert_allclose(two, 2 * one, rtol=1e-3, atol=1e-4)
