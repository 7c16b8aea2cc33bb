"""The fit of a context model to codes: the choice of contexts and tree, descent, and rounding to integers.

Large sets are sampled. Codes and seed decide the model.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tokenstore.codecs.bitpack import code_dtype
from tokenstore.codecs.chunks import MAX_FIT_CODES, OnFitProgress
from tokenstore.codecs.context.codec import Context, stored_model_nbytes
from tokenstore.codecs.context.contexts import context_offsets, view_offsets
from tokenstore.codecs.context.descent import LARGE_CODEBOOK, PARTS, Descent, FitPlane, FitSamples
from tokenstore.codecs.context.digits import digits_of, has_digits, split_digits
from tokenstore.codecs.context.given import NO_CODE, GivenViews, framed, framed_grid
from tokenstore.codecs.context.grouping import cooccurrence_vectors, grouped_order
from tokenstore.codecs.context.model import ContextModel
from tokenstore.codecs.context.quantising import FittedPlane, quantised
from tokenstore.codecs.context.streams import Streams
from tokenstore.codecs.context.tree import MAX_CODEBOOK_SIZE
from tokenstore.codecs.views import ROLES, Views
from tokenstore.errors import CodecError
from tokenstore.machine import one_blas_thread

Codes: TypeAlias = npt.NDArray[Any]

LEAST_DIGIT_CODES = 256
"""The fewest codes of a large codebook to whose digits a model is fitted."""
PASS_CODES = 2_000_000
"""The most codes of a pass of the fit. Of more codes, each pass takes others."""
TRIAL_CODES = 200_000
"""The codes on which candidates for a model's precision are compared."""
STEP_RATIO = 1.3
"""The ratio of one step between levels of rows to the next finer one that is tried."""
WEIGHT_STEPS = (0.02, 0.03, 0.04, 0.055, 0.075, 0.1, 0.14, 0.2)
"""The steps between levels of weights that are tried."""
LARGE_CONTEXTS = 6
"""The contexts of a large codebook."""
EPOCHS, LARGE_EPOCHS = 12, 4
"""The passes of the fit: of usual codebooks, and of large ones."""
LEAST_STEPS = 400
FIRST_FIT = 4
"""The ratio of the passes to those of the first fit, by which codes are grouped."""
BATCH_CODES = 8192
"""The codes of a batch."""
_PROGRESS_STEPS = 1000
"""The steps of a fit of two models, for the progress callback."""


def fitted_planes(
    samples: FitSamples,
    codebook_sizes: tuple[int, ...],
    *,
    seed: int = 0,
    epochs: float | None = None,
    roles: Sequence[str] = (),
    on_progress: OnFitProgress | None = None,
) -> list[FittedPlane]:
    """Fit a model to samples and return its planes, in floats.

    With `roles`, the axis of frames has references of these roles before the view that is coded.
    """
    grid = samples.grid
    number = len(codebook_sizes)
    books = 1 if number > 1 else 0
    own_grid = (*grid[:books], *grid[books + 1 :]) if roles else grid
    given = len(roles) * (math.prod(own_grid) // number)
    width = own_grid[-1] if len(own_grid) > 1 + books else 32
    fade = min(8, max(1, round(math.log2(max(2, width)))))
    large = max(codebook_sizes) > LARGE_CODEBOOK
    planes = []
    for at, size in enumerate(codebook_sizes):
        if roles:
            contexts = view_offsets(grid, at, number, roles)
        else:
            contexts = context_offsets(grid, at, number)[: LARGE_CONTEXTS if large else None]
        sources = [at + int(offset[0]) if number > 1 else 0 for offset in contexts]
        planes.append(FitPlane(size, contexts, sources, np.arange(size, dtype=np.uint32), fade))
    codes_per_sample = math.prod(own_grid)
    of_a_pass = max(1, min(samples.count, PASS_CODES // codes_per_sample))
    batch = max(PARTS, min(samples.count, BATCH_CODES * (2 if large else 1) // codes_per_sample))
    if epochs is None:
        epochs = min(60, max(LARGE_EPOCHS if large else EPOCHS, LEAST_STEPS * batch / of_a_pass))
    grouped = any(plane.tree.levels > 1 for plane in planes)
    first_steps, all_steps = (
        max(1, round(part * of_a_pass / batch)) for part in (epochs / FIRST_FIT, epochs)
    )
    total = all_steps + grouped * first_steps
    steps = itertools.count(1)

    def on_step() -> None:
        if on_progress is not None:
            on_progress(next(steps), total)

    if grouped:
        flat = samples.spread(of_a_pass).reshape(-1, math.prod(grid))
        per_plane = flat.shape[1] // number
        for at, plane in enumerate(planes):
            if plane.tree.levels > 1:
                own = flat[:, at * per_plane + given : (at + 1) * per_plane].astype(np.int64)
                vectors = cooccurrence_vectors(own, own_grid[books:], plane.size, seed)
                planes[at] = replace(plane, order=grouped_order(vectors, plane.tree))
        first = Descent(planes, grid, seed, given)
        first.descend(samples, first_steps, batch, on_step)
        planes = first.regrouped()
    fit = Descent(planes, grid, seed, given)
    fit.descend(samples, all_steps, batch, on_step)
    return fit.result()


def sampled(codes: Codes, seed: int, most_codes: int | None = None) -> Codes:
    """Draw samples (n, *grid) without replacement, in order.

    All together have at most `most_codes` codes, by default MAX_FIT_CODES.
    """
    most = max(1, (most_codes or MAX_FIT_CODES) // math.prod(codes.shape[1:]))
    if len(codes) <= most:
        return codes
    return codes[np.sort(np.random.default_rng(seed).choice(len(codes), most, replace=False))]


# subtle: threads of BLAS would decide the order of sums, and on busy cores wait for each other at every call
@one_blas_thread()
def fit_context(
    codes: Codes,
    codebook_sizes: tuple[int, ...],
    *,
    seed: int = 0,
    total_codes: int | None = None,
    copies: int = 1,
    views: Views | None = None,
    on_progress: OnFitProgress | None = None,
) -> Context:
    """Return the codec with a model fitted to codes (n, *grid), as precise as pays for `total_codes` codes.

    The first axis of a grid of several codebooks counts them. With `views`, codes are (n, V, *grid); views
    with boxes are coded given earlier ones if that pays. `copies` is how often a store will hold the model.
    Of one codebook of more than 65,536 codes the model codes digits. The codec packs, without a model, if no
    model pays, if one of several codebooks has more codes than that, or one has more than there are codes to
    fit to. `on_progress` is called with the steps done and in all.

    Raises CodecError for a code outside its codebook.
    """
    size = max(codebook_sizes)
    without = None if views is None else GivenViews.of(views)
    grid = codes.shape[1:] if views is None else codes.shape[2:]
    spatial = grid[1:] if len(codebook_sizes) > 1 else grid
    if has_digits(size) and len(codebook_sizes) == 1 and codes.size >= LEAST_DIGIT_CODES:
        digits = digits_of(size)
        _check_range(codes, codebook_sizes)
        flat = sampled(codes.reshape(-1, *grid), seed, PASS_CODES)
        planes = split_digits(flat.reshape(len(flat), -1), digits).reshape(len(flat), len(digits), *grid)
        total = len(digits) * (total_codes or codes.size)
        return Context(size, _Fit(digits, seed, total, copies, on_progress).alone(planes), without)
    if size > min(MAX_CODEBOOK_SIZE, codes.size) or not spatial:
        return Context(size, None, without)
    fit = _Fit(codebook_sizes, seed, total_codes or codes.size, copies, on_progress)
    if views is None:
        return Context(size, fit.alone(codes))
    references, roles = used_references(views.references(spatial))
    is_given = np.array([max(row, default=NO_CODE) > NO_CODE for row in references])
    fit = replace(fit, share=1 - float(is_given.mean()))
    model = fit.alone(codes[:, ~is_given].reshape(-1, *grid), may_pack=not is_given.any())
    if model is None or not is_given.any():
        return Context(size, model, without)
    given_views = fit.given(codes, views, references, roles, Context(size, model).streams(grid))
    choices = [Context(size, *each) for each in ((None, without), (model, without), (model, given_views))]
    trial = codes[: max(1, TRIAL_CODES // math.prod(codes.shape[1:]))].astype(code_dtype(size), copy=False)
    return min(choices[: 3 if given_views else 2], key=lambda codec: fit.cost(codec, trial))


def used_references(
    references: Sequence[tuple[int, ...]],
) -> tuple[tuple[tuple[int, ...], ...], tuple[str, ...]]:
    """Return references without the roles in which no view has one, and the roles that are left."""
    frames = dict(zip(ROLES, zip(*references, strict=True), strict=True))
    used = {role: frame for role, frame in frames.items() if max(frame) > NO_CODE}
    return tuple(zip(*used.values(), strict=True)) if used else ((),) * len(references), tuple(used)


@dataclass(frozen=True)
class _Fit:
    """The choice of the models of a store: by samples, for the bytes of the whole store."""

    codebook_sizes: tuple[int, ...]
    seed: int
    total_codes: int
    copies: int
    on_progress: OnFitProgress | None
    share: float = 1.0
    """The share of the store's codes that the next model is for."""

    def cost(self, codec: Context, trial: Codes) -> float:
        """Return the bytes of the store by a codec, as some samples (n, V, *grid) tell, and of its models."""
        nbytes = len(codec.encode(trial, len(trial), 0))
        return nbytes * self.total_codes / trial.size + self.copies * codec.table_nbytes

    def alone(self, codes: Codes, *, may_pack: bool = True) -> ContextModel | None:
        """Return the model of codes (n, *grid) of which each sample is coded alone; None to pack them.

        Without `may_pack` they are coded, so that others can be coded given them.
        """
        size = max(self.codebook_sizes)
        samples = sampled(codes, self.seed)
        _check_range(samples, self.codebook_sizes)
        samples = samples.astype(code_dtype(size), copy=False)
        drawn = FitSamples.of(samples)
        planes = fitted_planes(
            drawn, self.codebook_sizes, seed=self.seed, on_progress=self._progress(0, self.share)
        )
        trial = _Trial.of(drawn, size, self.share * self.total_codes, self.copies)
        return _cheapest(planes, trial, may_pack=may_pack)

    def given(
        self,
        codes: Codes,
        views: Views,
        references: tuple[tuple[int, ...], ...],
        roles: tuple[str, ...],
        alone: Streams,
    ) -> GivenViews | None:
        """Return the model of views (n, V, *grid) given others; None if coding them `alone` takes less."""
        frames, books = len(roles), len(self.codebook_sizes)
        grid = codes.shape[2:]
        framed_shape = framed_grid(grid, books, frames)
        flat = codes.reshape(len(codes), views.count, -1)
        given = [view for view, row in enumerate(references) if max(row) > NO_CODE]

        def draw(pairs: npt.NDArray[np.int64]) -> Codes:
            """Return pairs of an image and a view, by their numbers (n,), each with its references."""
            rows, kinds = np.divmod(pairs, len(given))
            codes = np.empty((len(pairs), *framed_shape), np.int32)
            for kind, view in enumerate(given):
                here = np.flatnonzero(kinds == kind)
                if len(here):
                    part = framed(views, references, view, flat[rows[here]], grid, books)
                    codes[here] = part.reshape(-1, *framed_shape)
            return codes

        samples = FitSamples(len(flat) * len(given), framed_shape, draw)
        planes = fitted_planes(
            samples,
            self.codebook_sizes,
            seed=self.seed,
            roles=roles,
            on_progress=self._progress(self.share, 1),
        )
        trial = samples.spread(max(1, TRIAL_CODES // flat.shape[2]))
        trial = trial.reshape(len(trial), -1)
        own = trial.reshape(len(trial), books, frames + 1, -1)[:, :, -1].reshape(len(trial), -1)
        own = np.ascontiguousarray(own)

        def coded_nbytes(model: ContextModel | None) -> int:
            if model is None:
                return len(alone.encode(own)[0])
            streams = GivenViews(views, references, model).streams(grid)
            return len(streams.encode(trial)[0])

        share = (1 - self.share) * self.total_codes / own.size
        model = _cheapest(planes, _Trial(coded_nbytes, len(framed_shape), share, self.copies))
        return None if model is None else GivenViews(views, references, model)

    def _progress(self, start: float, stop: float) -> OnFitProgress | None:
        """Return the callback of a fit that is the part from `start` to `stop` of all."""
        report = self.on_progress
        if report is None or (start, stop) == (0, 1):
            return report

        def on_progress(done: int, total: int) -> None:
            report(round(_PROGRESS_STEPS * (start + (stop - start) * done / total)), _PROGRESS_STEPS)

        return on_progress


def _check_range(samples: Codes, codebook_sizes: tuple[int, ...]) -> None:
    planes = [samples] if len(codebook_sizes) == 1 else np.moveaxis(samples, 1, 0)
    for number, (codes, size) in enumerate(zip(planes, codebook_sizes, strict=True)):
        low, high = int(codes.min()), int(codes.max())
        if low < 0 or high >= size:
            raise CodecError(
                f"codebook {number}: expected codes from 0 to {size - 1} to fit a context model to, "
                f"found {low if low < 0 else high}"
            )


@dataclass(frozen=True)
class _Trial:
    """The codes on which candidates for a model are compared."""

    coded_nbytes: Callable[[ContextModel | None], int]
    """The bytes of the trial's codes by a model."""
    rank: int
    """The axes of the model's grids."""
    share: float
    """The ratio of all codes to those of the trial."""
    copies: int

    @classmethod
    def of(cls, samples: FitSamples, size: int, total_codes: float, copies: int) -> _Trial:
        """Return a trial on some of the samples, which are packed if that is shorter."""
        trial = samples.spread(max(1, TRIAL_CODES // math.prod(samples.grid)))

        def coded_nbytes(model: ContextModel | None) -> int:
            return len(Context(size, model).encode(trial, len(trial), 0))

        return cls(coded_nbytes, len(samples.grid), total_codes / trial.size, copies)

    def cost(self, model: ContextModel | None) -> float:
        """Return the bytes of all codes by a model, and of its copies."""
        return self.coded_nbytes(model) * self.share + self.copies * stored_model_nbytes(model)


def _cheapest(planes: list[FittedPlane], trial: _Trial, *, may_pack: bool = True) -> ContextModel | None:
    """Return the model by which all codes and its copies take the fewest bytes; None where packing does.

    Without `may_pack` it is a model in any case.
    """

    def descending(
        tried: Iterable[float], candidate: Callable[[float], ContextModel]
    ) -> tuple[float, float, ContextModel]:
        """Return the cheapest of ever coarser models, behind its cost and step; stop after two worse ones."""
        trials: list[tuple[float, float, ContextModel]] = []
        for step in tried:
            model = candidate(step)
            trials.append((trial.cost(model), step, model))
            cheapest = min(trials, key=lambda one: one[0])
            if len(trials) > 2 and cheapest not in trials[-2:]:
                break
        return cheapest

    turned = [plane.principal() for plane in planes]

    def coded(step: float, weight_step: float) -> ContextModel:
        return quantised(turned, trial.rank, step, weight_step)

    finest = max(max(float(np.abs(plane.readers).max()) for plane in turned) / 127, 1e-6)
    steps = [finest * STEP_RATIO**power for power in range(24)]
    packed = [(trial.cost(None), None)] if may_pack else []
    step = descending(steps[::2], lambda step: coded(step, WEIGHT_STEPS[0]))[1]
    weight_step = descending(WEIGHT_STEPS, lambda weight_step: coded(step, weight_step))[1]
    # subtle: coarser weights change what finer rows are worth
    best = descending(steps[max(0, steps.index(step) - 2) :], lambda step: coded(step, weight_step))
    alone = coded(math.inf, WEIGHT_STEPS[-1])
    models = [(best[0], best[2]), (trial.cost(alone), alone), *packed]
    return min(models, key=lambda one: one[0])[1]
