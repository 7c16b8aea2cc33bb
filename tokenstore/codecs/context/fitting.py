"""The fit of a context model to codes: the choice of contexts and tree, descent, and rounding to integers.

Large sets are sampled. Codes and seed decide the model.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tokenstore.codecs.bitpack import code_dtype
from tokenstore.codecs.chunks import MAX_FIT_CODES, OnFitProgress
from tokenstore.codecs.context.codec import Context
from tokenstore.codecs.context.contexts import context_offsets
from tokenstore.codecs.context.descent import LARGE_CODEBOOK, PARTS, Descent, FitPlane, steps_of
from tokenstore.codecs.context.grouping import cooccurrence_vectors, grouped_order
from tokenstore.codecs.context.quantising import FittedPlane, quantised
from tokenstore.codecs.context.tree import MAX_CODEBOOK_SIZE
from tokenstore.errors import CodecError

Codes: TypeAlias = npt.NDArray[Any]

TRIAL_CODES = 200_000
"""The codes on which candidates for a model's precision are compared."""
STEP_RATIO = 1.7
"""The ratio of one step between levels of rows to the next finer one that is tried."""
WEIGHT_STEPS = (0.02, 0.04, 0.07, 0.12, 0.2)
"""The steps between levels of weights that are tried."""
LARGE_CONTEXTS = 6
"""The contexts of a large codebook."""
EPOCHS, LARGE_EPOCHS = 6, 4
"""The passes over the samples: of usual codebooks, and of large ones."""
LEAST_STEPS = 400
FIRST_FIT = 4
"""The ratio of the passes to those of the first fit, by which codes are grouped."""
BATCH_CODES = 8192
"""The codes of a batch."""


def fitted_planes(
    samples: Codes,
    codebook_sizes: tuple[int, ...],
    *,
    seed: int = 0,
    epochs: float | None = None,
    on_progress: OnFitProgress | None = None,
) -> list[FittedPlane]:
    """Fit a model to samples of codes (n, *grid) and return its planes, in floats."""
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
        planes.append(FitPlane(size, contexts, sources, np.arange(size, dtype=np.uint32), fade))
    batch = max(PARTS, min(len(flat), BATCH_CODES * (2 if large else 1) // flat.shape[1]))
    if epochs is None:
        epochs = min(60, max(LARGE_EPOCHS if large else EPOCHS, LEAST_STEPS * batch / len(flat)))
    grouped = any(plane.tree.levels > 1 for plane in planes)
    total = steps_of(epochs, len(flat), batch) + grouped * steps_of(epochs / FIRST_FIT, len(flat), batch)
    steps = itertools.count(1)

    def on_step() -> None:
        if on_progress is not None:
            on_progress(next(steps), total)

    if grouped:
        per_plane = flat.shape[1] // number
        for at, plane in enumerate(planes):
            if plane.tree.levels > 1:
                vectors = cooccurrence_vectors(
                    flat[:, at * per_plane : (at + 1) * per_plane],
                    grid[1:] if number > 1 else grid,
                    plane.size,
                    seed,
                )
                planes[at] = replace(plane, order=grouped_order(vectors, plane.tree))
        first = Descent(planes, grid, seed)
        first.descend(flat, epochs / FIRST_FIT, batch, on_step)
        planes = first.regrouped()
    fit = Descent(planes, grid, seed)
    fit.descend(flat, epochs, batch, on_step)
    return fit.result()


def sampled(codes: Codes, seed: int) -> Codes:
    """Draw samples (n, *grid) of at most MAX_FIT_CODES codes in all, without replacement, in order."""
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
    on_progress: OnFitProgress | None = None,
) -> Context:
    """Return the codec with a model fitted to codes (n, *grid), as precise as pays for `total_codes` codes.

    The first axis of a grid of several codebooks counts them. `copies` is how often a store will hold the
    model. The codec packs, without a model, if no model pays, or if a codebook has more than 65,536 codes or
    more than there are codes to fit to. `on_progress` is called with the steps done and in all.

    Raises CodecError for a code outside its codebook.
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
    """Return the codec by which all codes, with the copies of the model, take the fewest bytes."""
    trial = samples[: max(1, TRIAL_CODES // math.prod(samples.shape[1:]))]
    share = total_codes / trial.size

    def cost(codec: Context) -> float:
        return len(codec.encode(trial, len(trial), 0)) * share + copies * codec.table_nbytes

    def descending(candidates: Iterable[Context], best: tuple[float, Context]) -> tuple[float, Context]:
        """Return the cheapest of ever coarser codecs, with its cost; stop after two that are worse."""
        worse = 0
        for codec in candidates:
            candidate = (cost(codec), codec)
            worse = 0 if candidate[0] < best[0] else worse + 1
            best = min(best, candidate, key=lambda one: one[0])
            if worse == 2:
                break
        return best

    def coded(step: float, weight_step: float) -> Context:
        return Context(size, quantised(planes, samples.ndim - 1, step, weight_step))

    finest = max(max(float(np.abs(plane.readers).max()) for plane in planes) / 127, 1e-6)
    steps = [finest * STEP_RATIO**power for power in range(10)]
    without = Context(size, None)
    packed = (cost(without), without)
    _, cheapest = descending((coded(step, WEIGHT_STEPS[0]) for step in steps), (math.inf, without))
    step = next(step for step in steps if coded(step, WEIGHT_STEPS[0]).table_nbytes == cheapest.table_nbytes)
    best = descending((coded(step, weight_step) for weight_step in WEIGHT_STEPS), (math.inf, without))
    alone = coded(math.inf, WEIGHT_STEPS[-1])
    return min(best, (cost(alone), alone), packed, key=lambda one: one[0])[1]
