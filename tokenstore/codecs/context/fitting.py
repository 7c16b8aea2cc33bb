"""Fits a context model to codes: which contexts, which tree, and the numbers, by stochastic gradient descent.

Large sets are sampled. Everything follows from the codes and the seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tokenstore.codecs.bitpack import code_dtype
from tokenstore.codecs.context import gradients
from tokenstore.codecs.context.codec import Context
from tokenstore.codecs.context.kernels import MAX_LEVELS
from tokenstore.codecs.context.model import PAST_ROWS, ContextModel, lanes_for
from tokenstore.codecs.context.quantising import FittedPlane, quantised
from tokenstore.codecs.context.streams import neighbours
from tokenstore.codecs.context.tree import MAX_CODEBOOK_SIZE, CodeTree, grouped_order
from tokenstore.codecs.context.vectors import LANES
from tokenstore.errors import CodecError

Codes: TypeAlias = npt.NDArray[Any]
OnProgress: TypeAlias = Callable[[int, int], None]

MAX_FIT_CODES = 2_000_000
TRIAL_CODES = 200_000
"""Codes that the candidates for a model's precision are compared on."""
STEP_RATIO = 1.7
WEIGHT_STEPS = (0.02, 0.04, 0.07, 0.12, 0.2)
COMPONENTS = 64
LARGE_CODEBOOK = 4096
"""Larger ones get half the components and contexts, twice the batch, fewer passes: these grow with them."""
LARGE_CONTEXTS = 6
EPOCHS, LARGE_EPOCHS = 6, 4
LEAST_STEPS = 400
BATCH_CODES = 8192
RATE = 2e-2
_PARTS = 2
"""Gradients are summed over so many parts of a batch, in threads; fixed, so that their number decides
nothing."""

OFFSETS_1D = ((-1,), (-2,), (-3,), (-4,), (-5,), (-6,))
OFFSETS_2D = ((0, -1), (-1, 0), (-1, -1), (-1, 1), (0, -2), (-2, 0), (-1, 2), (-2, 1), (-2, -1), (-1, -2))


def context_offsets(grid: tuple[int, ...], plane: int, planes: int) -> npt.NDArray[np.int8]:
    """Where the codes lie that predict one: offsets along the grid's axes (m, rank), nearest first.

    Within a row and to rows before it; the same place and its neighbours in the frame before; and the same
    place in up to four codebooks before.
    """
    spatial = grid[1:] if planes > 1 else grid
    rank = len(spatial)
    flat = OFFSETS_1D if rank == 1 else OFFSETS_2D
    lead = (0,) * max(0, rank - 2)
    offsets = [(*lead, *offset) for offset in flat]
    if rank > 2:
        before = (*lead[:-1], -1)
        frame = [(*before, dy, dx) for dy, dx in ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0))]
        offsets = [*offsets[:4], *frame, *offsets[4:6]]
    if planes > 1:
        earlier = [(-step, *(0,) * rank) for step in range(1, min(plane, 4) + 1)]
        beside = [(-1, *(0,) * (rank - 1), 1), (-1, *(0,) * max(0, rank - 2), 1, 0)][
            : 2 if plane and rank > 1 else 0
        ]
        offsets = [*earlier, *((0, *offset) for offset in offsets[:6]), *beside]
    inside = [all(abs(step) < side for step, side in zip(o, grid, strict=True)) for o in offsets]
    return np.array(
        [o for o, reaches in zip(offsets, inside, strict=True) if reaches] or offsets[:1], np.int8
    )


@dataclass
class _Plane:
    """What fitting one codebook's part needs, and where it is in the arrays shared by all."""

    size: int
    contexts: npt.NDArray[np.int8]
    sources: list[int]
    order: npt.NDArray[np.uint32]
    fade: int

    @property
    def tree(self) -> CodeTree:
        return CodeTree.of(self.size)


class _Fit:
    """Parameters of a model in float32, and descent on them."""

    def __init__(self, planes: list[_Plane], grid: tuple[int, ...], seed: int) -> None:
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
        self, samples: Codes, epochs: float, batch: int, on_progress: OnProgress | None = None
    ) -> None:
        """`epochs` passes over samples of codes (n, L), the rate rising for a tenth and then falling to
        nothing."""
        total = max(1, round(epochs * len(samples) / batch))
        places = neighbours(self._shape_only(), self.grid).astype(np.int64)
        ranks = self._ranks()
        weight = np.float32(2 / (samples.size / len(self.planes)))
        drawn: list[int] = []
        with ThreadPoolExecutor(_PARTS) as pool:
            for step in range(total):
                while len(drawn) < batch:
                    drawn.extend(self._random.permutation(len(samples)).tolist())
                chosen, drawn = drawn[:batch], drawn[batch:]
                done = step / total
                rate = RATE * (done / 0.1 if done < 0.1 else (1 + math.cos(math.pi * (done - 0.1) / 0.9)) / 2)
                self._step(samples[np.array(chosen)], places, ranks, rate, weight, pool)
                if on_progress is not None:
                    on_progress(step + 1, total)

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
            mine = slice(index * len(samples) // _PARTS, (index + 1) * len(samples) // _PARTS)
            slopes = np.zeros_like(table), np.zeros_like(self.bias), np.zeros_like(self.weights)
            gradients.accumulate(
                rows[mine], ranked[mine], places, bases, pasts, self.shapes, self.nodes, self.fades,
                table, self.bias, self.weights, *slopes,
            )  # fmt: skip
            return slopes

        (slope, bias_slope, weights_slope), *others = pool.map(part, range(_PARTS))
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

    def _shape_only(self) -> Any:
        return ContextModel(len(self.grid), tuple(self.planes))  # type: ignore[arg-type]

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


def fitted_planes(
    samples: Codes,
    codebook_sizes: tuple[int, ...],
    *,
    seed: int = 0,
    epochs: float | None = None,
    on_progress: OnProgress | None = None,
) -> list[FittedPlane]:
    """Fits to samples of codes (n, *grid)."""
    grid = samples.shape[1:]
    number = len(codebook_sizes)
    flat = np.ascontiguousarray(samples.reshape(len(samples), -1)).astype(np.int64)
    width = grid[-1] if len(grid) > 1 + (number > 1) else 32
    fade = min(8, max(1, round(math.log2(max(2, width)))))
    large = max(codebook_sizes) > LARGE_CODEBOOK
    planes = []
    for at, size in enumerate(codebook_sizes):
        contexts = context_offsets(grid, at, number)[: LARGE_CONTEXTS if large else None]
        sources = [at + int(offset[0]) if number > 1 else 0 for offset in contexts]
        planes.append(_Plane(size, contexts, sources, np.arange(size, dtype=np.uint32), fade))
    batch = max(_PARTS, min(len(flat), BATCH_CODES * (2 if large else 1) // flat.shape[1]))
    if epochs is None:
        epochs = min(60, max(LARGE_EPOCHS if large else EPOCHS, LEAST_STEPS * batch / len(flat)))
    if any(plane.tree.levels > 1 for plane in planes):
        per_plane = flat.shape[1] // number
        for at, plane in enumerate(planes):
            if plane.tree.levels > 1:
                vectors = cooccurrence_vectors(
                    flat[:, at * per_plane : (at + 1) * per_plane],
                    grid[1:] if number > 1 else grid,
                    plane.size,
                    seed,
                )
                plane.order = grouped_order(vectors, plane.tree)
        first = _Fit(planes, grid, seed)
        first.descend(flat, epochs / 4, batch)
        first.regroup()
    fit = _Fit(planes, grid, seed)
    fit.descend(flat, epochs, batch, on_progress)
    return fit.result()


def cooccurrence_vectors(
    flat: Codes, grid: tuple[int, ...], size: int, seed: int, dimensions: int = 32
) -> npt.NDArray[np.float64]:
    """Vectors (K, D) of codes that are alike in what stands beside them: spectral embedding of the neighbour
    graph."""
    samples = flat.reshape(len(flat), *grid)
    pairs = []
    for axis in range(max(0, len(grid) - 2), len(grid)):
        if grid[axis] > 1:
            after = np.take(samples, range(1, grid[axis]), axis=axis + 1).ravel()
            before = np.take(samples, range(grid[axis] - 1), axis=axis + 1).ravel()
            pairs.append(np.stack([after, before]))
    degrees = np.ones(size)
    vectors = np.random.default_rng(seed).standard_normal((size, min(dimensions, size)))
    if not pairs:
        return np.bincount(flat.ravel(), minlength=size)[:, None].astype(np.float64)
    left, right = np.concatenate(pairs, axis=1).astype(np.int64)
    degrees += np.bincount(left, minlength=size) + np.bincount(right, minlength=size)
    scale = 1 / np.sqrt(degrees)
    basis = np.linalg.qr(vectors * np.sqrt(degrees)[:, None])[0]
    for _ in range(12):
        product = np.zeros_like(basis)
        gradients.spread(left, right, scale, basis, product)
        basis = np.linalg.qr(product + basis)[0]
    product = np.zeros_like(basis)
    gradients.spread(left, right, scale, basis, product)
    strength, turn = np.linalg.eigh(basis.T @ product)
    strength = np.sqrt(np.clip(strength, 0, None))
    found: npt.NDArray[np.float64] = (basis @ turn) * strength * scale[:, None] * math.sqrt(degrees.sum())
    return found


def sampled(codes: Codes, seed: int) -> Codes:
    """At most MAX_FIT_CODES codes of samples (n, *grid), drawn without replacement."""
    most = max(1, MAX_FIT_CODES // math.prod(codes.shape[1:]))
    if len(codes) <= most:
        return codes
    return codes[np.sort(np.random.default_rng(seed).choice(len(codes), most, replace=False))]


def fit_context(
    codes: Codes,
    codebook_sizes: tuple[int, ...],
    *,
    seed: int = 0,
    total_codes: int | None = None,
    copies: int = 1,
    on_progress: OnProgress | None = None,
) -> Context:
    """The codec with a model fitted to codes (n, *grid), as precise as pays for `total_codes` of their kind.

    With several codebooks the grid's first axis is theirs. `copies` is how often a store will hold the model.
    Where no model pays, or a codebook has more than 65,536 codes, or more than there are to fit to, the
    codec has none and packs. `on_progress` is told steps done and in all.
    """
    size = max(codebook_sizes)
    spatial = codes.shape[2:] if len(codebook_sizes) > 1 else codes.shape[1:]
    if size > min(MAX_CODEBOOK_SIZE, codes.size) or not spatial:
        return Context(size, None)
    samples = sampled(codes, seed)
    _check_range(samples, codebook_sizes)
    samples = samples.astype(code_dtype(size), copy=False)
    planes = fitted_planes(samples, codebook_sizes, seed=seed, on_progress=on_progress)
    return _cheapest(planes, samples, size, total_codes or codes.size, copies)


def _check_range(samples: Codes, codebook_sizes: tuple[int, ...]) -> None:
    planes = [samples] if len(codebook_sizes) == 1 else np.moveaxis(samples, 1, 0)
    for number, (codes, size) in enumerate(zip(planes, codebook_sizes, strict=True)):
        low, high = int(codes.min()), int(codes.max())
        if low < 0 or high >= size:
            raise CodecError(
                f"codebook {number}: expected codes from 0 to {size - 1} to fit a context model to, "
                f"found {low if low < 0 else high}"
            )


def _cheapest(planes: list[FittedPlane], samples: Codes, size: int, total_codes: int, copies: int) -> Context:
    """The codec with which all codes and the copies of its model take the fewest bytes."""
    trial = samples[: max(1, TRIAL_CODES // math.prod(samples.shape[1:]))]
    share = total_codes / trial.size

    def cost(codec: Context) -> float:
        return len(codec.encode(trial, len(trial), 0)) * share + copies * codec.table_nbytes

    def descending(candidates: Iterable[Context], best: tuple[float, Context]) -> tuple[float, Context]:
        """The cheapest of ever coarser codecs, until they only get worse."""
        worse = 0
        for codec in candidates:
            found = (cost(codec), codec)
            worse = 0 if found[0] < best[0] else worse + 1
            best = min(best, found, key=lambda one: one[0])
            if worse == 2:
                break
        return best

    def coded(step: float, weight_step: float) -> Context:
        return Context(size, quantised(planes, samples.ndim - 1, step, weight_step))

    finest = max(max(float(np.abs(plane.readers).max()) for plane in planes) / 127, 1e-6)
    steps = [finest * STEP_RATIO**power for power in range(10)]
    without = Context(size, None)
    packed = (cost(without), without)
    _, chosen = descending((coded(step, WEIGHT_STEPS[0]) for step in steps), (math.inf, without))
    step = next(step for step in steps if coded(step, WEIGHT_STEPS[0]).table_nbytes == chosen.table_nbytes)
    best = descending((coded(step, weight_step) for weight_step in WEIGHT_STEPS), (math.inf, without))
    alone = coded(math.inf, WEIGHT_STEPS[-1])
    return min(best, (cost(alone), alone), packed, key=lambda one: one[0])[1]
