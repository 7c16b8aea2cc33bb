"""The fitting of a codebook over the latents of an autoencoder, which is not changed.

A sample of latent vectors of bounded size is in memory. Mini-batch k-means (Sculley 2010,
https://doi.org/10.1145/1772690.1772862) finds the codebook, from a start by k-means++ (Arthur & Vassilvitskii
2007). All draws come from one generator on the CPU, so on a CPU a seed gives one codebook.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch import Tensor

from tokenstore.errors import SampleError, TokenizerError
from tokenstore.sources.base import ImageSplit
from tokenstore.sources.images import ImageOptions, decode_image
from tokenstore.tokenizers.passes import ACCELERATOR_BATCH, on_threads
from tokenstore.tokenizers.quality import Quality, evaluate
from tokenstore.tokenizers.quantisers import (
    FiniteScalar,
    NearestCodebook,
    Quantiser,
    ResidualCodebooks,
    check_levels,
    nearest,
)
from tokenstore.tokenizers.train.kmeans import SMALLEST, kmeans, kmeans_start

if TYPE_CHECKING:  # the module needs diffusers
    from tokenstore.tokenizers.kinds.autoencoder import Autoencoder, AutoencoderTokenizer

__all__ = ["FitOptions", "FitReport", "OnProgress", "learn_codebook"]

HELD_OUT = 10
"""One image of so many is held out: not learned from but evaluated on."""
EVALUATED = 256
"""The most held-out images that are evaluated."""
SCALES = torch.arange(5, 31) / 10
"""The scales that are tried for a finite scalar quantiser, in standard deviations."""
SCALED_VECTORS = 1 << 17
"""The most vectors that scales are tried on."""
SMALLEST_SHARE = 1e-3
"""The least standard deviation of a channel, as a share of its mean: less is lost in float32."""

OnProgress: TypeAlias = Callable[[str, int, int], None]
"""A progress callback: called with the stage, the steps done in the stage, and all its steps."""


def _silence(*_: object) -> None: ...


@dataclass(frozen=True)
class FitOptions:
    """The sizes of a codebook and the settings of k-means.

    Raises TokenizerError for a number below 1, and for levels that make no usable code.
    """

    codebook_size: int = 4096
    """The number of codes of each codebook."""
    codebooks: int = 1
    """The number of codebooks; each is learned over the residuals of those before."""
    levels: tuple[int, ...] | None = None
    """The number of levels of each latent channel, for finite scalar quantisation in place of codebooks."""
    max_vectors: int = 1 << 20
    """The number of latent vectors in memory, a random sample of all."""
    batch_vectors: int = 1 << 14
    """The number of vectors of one step of k-means."""
    iterations: int = 200
    """The steps of k-means for each codebook."""
    seed: int = 0
    """The seed of all draws."""

    def __post_init__(self) -> None:
        for name in ("codebook_size", "codebooks", "max_vectors", "batch_vectors", "iterations"):
            if getattr(self, name) < 1:
                raise TokenizerError(f"{name}: expected at least 1, found {getattr(self, name)}")
        if self.levels is not None:
            check_levels(self.levels)


@dataclass(frozen=True)
class FitReport:
    """The data that a codebook was learned from, and the fit."""

    images: int
    """The number of images learned from."""
    vectors: int
    """The number of latent vectors of those images; the sample has at most `max_vectors` of them."""
    relative_error: float
    """The mean squared error of the sample over its variance."""
    perplexity: tuple[float, ...]
    """The perplexity of the sample's codes in each codebook."""
    unused_codes: tuple[int, ...]
    """The number of codes of each codebook that no vector of the sample has."""
    held_out: Quality | None
    """The quality of rebuilt held-out images; None if no image was held out."""
    skipped: tuple[tuple[str, str], ...]
    """The images that could not be read: (source name, reason)."""


def learn_codebook(
    split: ImageSplit,
    autoencoder: Autoencoder,
    image_options: ImageOptions,
    options: FitOptions,
    *,
    limit: int | None = None,
    on_progress: OnProgress = _silence,
) -> tuple[AutoencoderTokenizer, FitReport]:
    """Learn a codebook over the latents of `limit` images, evenly spaced over a split, or of all.

    The tokenizer is on the device of the autoencoder. Raises TokenizerError if images or levels don't fit the
    autoencoder, if no image can be read, or if there are fewer vectors than codes.
    """
    _check_fit(autoencoder, image_options, options)
    generator = torch.Generator().manual_seed(options.seed)
    images = Images(split, image_options, limit)
    reservoir = Reservoir(options.max_vectors, autoencoder.channels, generator)
    learned = 0
    for batch in images.learned(on_progress):
        learned += len(batch)
        reservoir.add(latent_rows(autoencoder, batch))
    if not learned:
        raise TokenizerError(
            f"expected images to learn from, found none that can be read: {images.skipped[:1]}"
        )
    rows = reservoir.rows().to(autoencoder.device)
    quantiser = fit_quantiser(rows, options, generator, on_progress)
    codes = quantiser.codes(_as_latents(rows))
    planes = codes.view(len(quantiser.codebook_sizes), len(rows))
    uses = [code_use(plane, size) for plane, size in zip(planes, quantiser.codebook_sizes, strict=True)]
    tokenizer = autoencoder.tokenizer(quantiser, image_options.height)
    held_out = images.held_out(on_progress)
    first = next(held_out, None)
    report = FitReport(
        images=learned,
        vectors=reservoir.seen,
        relative_error=relative_error(rows, quantiser.vectors(codes)[0, :, :, 0].T),
        perplexity=tuple(perplexity for perplexity, _ in uses),
        unused_codes=tuple(unused for _, unused in uses),
        held_out=None if first is None else evaluate(tokenizer, chain([first], held_out)),
        skipped=tuple(images.skipped),
    )
    return tokenizer, report


def _check_fit(autoencoder: Autoencoder, image_options: ImageOptions, options: FitOptions) -> None:
    """Raise TokenizerError if the images' size or the levels don't fit the autoencoder."""
    sides = image_options.height, image_options.width
    if any(side % autoencoder.stride for side in sides):
        raise TokenizerError(
            f"image size: expected a multiple of {autoencoder.stride} for {autoencoder.reference}, "
            f"found {sides[0]}x{sides[1]}"
        )
    if options.levels is not None and len(options.levels) != autoencoder.channels:
        raise TokenizerError(
            f"levels: expected one number for each of {autoencoder.channels} latent channels of "
            f"{autoencoder.reference}, found {len(options.levels)}"
        )


class Images:
    """The images (3, H, W) uint8 of a subset of a split; unreadable images are `skipped`."""

    def __init__(self, split: ImageSplit, options: ImageOptions, limit: int | None = None) -> None:
        count = len(split) if limit is None else min(limit, len(split))
        subset = [number * len(split) // count for number in range(count)]
        self._split, self._options = split, options
        self._held_out = subset[HELD_OUT // 2 :: HELD_OUT]
        self._learned = sorted(set(subset) - set(self._held_out))
        self.skipped: list[tuple[str, str]] = []

    def learned(self, on_progress: OnProgress = _silence) -> Iterator[Tensor]:
        """Yield batches (b, 3, H, W) of the images to learn from."""
        for first in range(0, len(self._learned), ACCELERATOR_BATCH):
            positions = self._learned[first : first + ACCELERATOR_BATCH]
            images = list(self._read(positions))
            if images:
                yield torch.stack(images)
            on_progress("encoding images", first + len(positions), len(self._learned))

    def held_out(self, on_progress: OnProgress = _silence) -> Iterator[Tensor]:
        """Yield the held-out images one by one, at most EVALUATED of them."""
        positions = self._held_out[:: -(-len(self._held_out) // EVALUATED) or 1]
        for number, position in enumerate(positions):
            yield from self._read([position])
            on_progress("evaluating images", number + 1, len(positions))

    def _read(self, positions: Iterable[int]) -> Iterator[Tensor]:
        for position in positions:
            try:
                data = self._split.request(position, position + 1).read()[0]
                if isinstance(data, SampleError):
                    raise data
                image = decode_image(data, self._options)
            except SampleError as error:
                self.skipped.append((self._split.names(position, position + 1)[0].as_py(), str(error)))
            else:
                yield torch.from_numpy(image.pixels).permute(2, 0, 1)


@torch.no_grad()
def latent_rows(autoencoder: Autoencoder, images: Tensor) -> Tensor:
    """Encode images (b, 3, H, W) uint8 to latent vectors (N, D) on the CPU.

    Raises TokenizerError for latents that are not finite.
    """
    if autoencoder.device.type == "cpu":
        latents = on_threads(autoencoder.latents, images, torch.get_num_threads())
    else:
        latents = autoencoder.latents(images.to(autoencoder.device)).cpu()
    if not bool(latents.isfinite().all()):
        raise TokenizerError(
            f"{autoencoder.reference}: expected finite latents, found NaN or infinity; the autoencoder "
            "overflows on these images"
        )
    return latents.permute(0, 2, 3, 1).flatten(0, 2)


class Reservoir:
    """A uniform random sample of at most `capacity` of the added vectors (Vitter's algorithm R)."""

    def __init__(self, capacity: int, dimensions: int, generator: torch.Generator) -> None:
        self.seen = 0
        self._sample = np.empty((0, dimensions), np.float32)
        self._capacity, self._generator = capacity, generator

    def add(self, rows: Tensor) -> None:
        """Add vectors (N, D)."""
        fresh = rows.numpy()
        free = self._capacity - len(self._sample)
        self._sample = np.concatenate([self._sample, fresh[:free]]) if free else self._sample
        late = fresh[free:]
        draws = torch.rand(len(late), generator=self._generator, dtype=torch.float64).numpy()
        numbers = self.seen + len(fresh) - len(late) + np.arange(len(late))
        slots = (draws * (numbers + 1)).astype(np.int64)
        is_sampled = slots < self._capacity
        self._sample[slots[is_sampled]] = late[
            is_sampled
        ]  # subtle: of two for one slot, NumPy keeps the later
        self.seen += len(fresh)

    def rows(self) -> Tensor:
        """Return the sample (n, D)."""
        return torch.from_numpy(self._sample)


def fit_quantiser(
    rows: Tensor, options: FitOptions, generator: torch.Generator, on_progress: OnProgress = _silence
) -> Quantiser:
    """Learn the quantiser of the options over latent vectors (N, D).

    Raises TokenizerError if there are fewer vectors than codes.
    """
    if options.levels is not None:
        return fit_levels(rows, options.levels)
    if len(rows) < options.codebook_size:
        raise TokenizerError(
            f"expected at least {options.codebook_size} latent vectors for as many codes, found {len(rows)}; "
            "use more or larger images, or fewer codes"
        )
    tables, rest = [], rows
    for number in range(options.codebooks):
        name = "codebook" if options.codebooks == 1 else f"codebook {number + 1}"
        start = kmeans_start(
            rest, options.codebook_size, generator, partial(on_progress, f"{name}, first vectors")
        )
        on_steps = partial(on_progress, f"{name}, steps of k-means")
        tables.append(kmeans(rest, start, options.iterations, options.batch_vectors, generator, on_steps))
        rest = rest - tables[-1][nearest(rest, tables[-1])]
    return NearestCodebook(tables[0]) if len(tables) == 1 else ResidualCodebooks(torch.stack(tables))


def fit_levels(rows: Tensor, levels: Sequence[int]) -> FiniteScalar:
    """Fit a finite scalar quantiser to latent vectors (N, D), at each channel's scale of least error."""
    mean, deviation = rows.mean(0).cpu(), rows.std(0, correction=0).cpu()
    deviation = deviation.maximum(SMALLEST_SHARE * mean.abs()).clamp_min(SMALLEST)
    part = _as_latents(rows[:: -(-len(rows) // SCALED_VECTORS)])
    errors = []
    for scale in SCALES:
        quantiser = FiniteScalar(levels, mean, scale * deviation).to(rows.device)
        errors.append((quantiser.vectors(quantiser.codes(part)) - part).square().mean((0, 2, 3)).cpu())
    best = SCALES[torch.stack(errors).argmin(0)]
    return FiniteScalar(levels, mean, best * deviation).to(rows.device)


def code_use(codes: Tensor, size: int) -> tuple[float, int]:
    """Return the perplexity of codes (N,), and the number of all codes that do not occur."""
    counts = torch.unique(codes, return_counts=True)[1].double()
    share = counts / counts.sum()
    return math.exp(-(share * share.log()).sum().item()), size - len(counts)


def relative_error(rows: Tensor, vectors: Tensor) -> float:
    """Return the mean squared error of the vectors (N, D) that replace rows, over the rows' variance."""
    error = (rows - vectors).double().square().sum().item()
    return error / max((rows - rows.mean(0)).double().square().sum().item(), SMALLEST)


def _as_latents(rows: Tensor) -> Tensor:
    """Return rows (N, D) as latents (1, D, N, 1)."""
    return rows.T[None, :, :, None]
