"""Learning a codebook over the latents of an autoencoder that stays as it is.

A sample of latent vectors of bounded size is kept in memory, and mini-batch k-means (Sculley 2010,
https://doi.org/10.1145/1772690.1772862) finds the codebook, from a start by k-means++ (Arthur & Vassilvitskii
2007). All that is drawn comes from one generator on the CPU: on a CPU a seed gives one codebook.
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
from tokenstore.tokenizers.image_tokenizer import ACCELERATOR_BATCH, on_threads
from tokenstore.tokenizers.quality import Quality, evaluate
from tokenstore.tokenizers.quantisers import (
    FiniteScalar,
    NearestCodebook,
    Quantiser,
    ResidualCodebooks,
    check_levels,
    nearest,
)

if TYPE_CHECKING:  # it needs diffusers
    from tokenstore.tokenizers.kinds.autoencoder import Autoencoder, AutoencoderTokenizer

HELD_OUT = 10
"""One image of so many is not learned from but measured with."""
MEASURED = 256
"""Held-out images that are measured, at most."""
START_VECTORS = 8
"""Vectors for each code that k-means++ chooses the first codebook from, if MOST_START_VECTORS allow."""
MOST_START_VECTORS = 1 << 16
SPARED = 10
"""A code may have this many times less than its even share of vectors before it is taken for dead."""
SETTLING = 10
"""The last of so many parts of all steps start no code again."""
SLOWING = 30
"""Steps after which the means go over twice as many batches as at first, then three times, and so on."""
SCALES = torch.arange(5, 31) / 10
"""Scales of a finite scalar quantiser that are tried, in standard deviations."""
SCALED_VECTORS = 1 << 17
"""Vectors that scales are tried on, at most."""
SMALLEST_SHARE = 1e-3
"""The least standard deviation of a channel, as a share of its mean: less is lost in float32."""
SMALLEST = 1e-12
"""What is smaller counts as nothing."""
TOLD = 256
"""First vectors that are chosen between two calls of `tell`."""

Steps: TypeAlias = Callable[[int, int], None]
"""Called with how much is done and how much there is."""
Tell: TypeAlias = Callable[[str, int, int], None]
"""Called with what is going on, how much of it is done, and how much there is."""


def _silence(*_: object) -> None: ...


@dataclass(frozen=True)
class FitOptions:
    """What is to be learned, and how."""

    size: int = 4096
    """Codes of each codebook."""
    codebooks: int = 1
    """Each is learned over the residuals of those before it."""
    levels: tuple[int, ...] | None = None
    """Levels of each latent channel, for finite scalar quantisation in place of codebooks."""
    max_vectors: int = 1 << 20
    """Latent vectors kept in memory, a random sample of all."""
    batch_size: int = 1 << 14
    """Vectors of one step."""
    iterations: int = 200
    """Steps for each codebook."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("size", "codebooks", "max_vectors", "batch_size", "iterations"):
            if getattr(self, name) < 1:
                raise TokenizerError(f"{name}: expected at least 1, found {getattr(self, name)}")
        if self.levels is not None:
            check_levels(self.levels)


@dataclass(frozen=True)
class FitReport:
    """What a codebook was learned from, and how well it fits."""

    images: int
    """Images learned from."""
    vectors: int
    """Latent vectors that the images gave; no more than `max_vectors` of them were kept."""
    relative_error: float
    """Mean squared error of the kept vectors over their variance."""
    perplexity: tuple[float, ...]
    """Of the codes of the kept vectors in each codebook."""
    unused_codes: tuple[int, ...]
    held_out: Quality | None
    """How well held-out images are rebuilt; None where there were none."""
    skipped: tuple[tuple[str, str], ...]
    """Images that could not be read: (source name, reason)."""


def fit_codebook(
    split: ImageSplit,
    autoencoder: Autoencoder,
    image_options: ImageOptions,
    options: FitOptions,
    *,
    limit: int | None = None,
    tell: Tell = _silence,
) -> tuple[AutoencoderTokenizer, FitReport]:
    """Learn a codebook over the latents of `limit` images, evenly spaced over a split, or of all.

    The tokenizer is where the autoencoder is. Raises TokenizerError where images or levels don't fit the
    autoencoder, or where there are fewer vectors than codes.
    """
    _check_fit(autoencoder, image_options, options)
    generator = torch.Generator().manual_seed(options.seed)
    images = Images(split, image_options, limit)
    reservoir = Reservoir(options.max_vectors, autoencoder.channels, generator)
    learned = 0
    for batch in images.learned(tell):
        learned += len(batch)
        reservoir.add(latent_rows(autoencoder, batch))
    if not learned:
        raise TokenizerError(
            f"expected images to learn from, found none that can be read: {images.skipped[:1]}"
        )
    rows = reservoir.rows().to(autoencoder.device)
    quantiser = fit_quantiser(rows, options, generator, tell)
    codes = quantiser.codes(_as_latents(rows))
    planes = codes.view(len(quantiser.codebook_sizes), len(rows))
    uses = [code_use(plane, size) for plane, size in zip(planes, quantiser.codebook_sizes, strict=True)]
    tokenizer = autoencoder.tokenizer(quantiser, image_options.height)
    held_out = images.held_out(tell)
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
    """Images (3, H, W) uint8 chosen from a split; those that cannot be read are `skipped`."""

    def __init__(self, split: ImageSplit, options: ImageOptions, limit: int | None = None) -> None:
        count = len(split) if limit is None else min(limit, len(split))
        chosen = [number * len(split) // count for number in range(count)]
        self._split, self._options = split, options
        self._held_out = chosen[HELD_OUT // 2 :: HELD_OUT]
        self._learned = sorted(set(chosen) - set(self._held_out))
        self.skipped: list[tuple[str, str]] = []

    def learned(self, tell: Tell = _silence) -> Iterator[Tensor]:
        """Batches (b, 3, H, W) of those to learn from."""
        for first in range(0, len(self._learned), ACCELERATOR_BATCH):
            positions = self._learned[first : first + ACCELERATOR_BATCH]
            images = list(self._read(positions))
            if images:
                yield torch.stack(images)
            tell("encoding", first + len(positions), len(self._learned))

    def held_out(self, tell: Tell = _silence) -> Iterator[Tensor]:
        """Those to measure with, one by one, at most MEASURED of them."""
        positions = self._held_out[:: -(-len(self._held_out) // MEASURED) or 1]
        for number, position in enumerate(positions):
            yield from self._read([position])
            tell("measuring", number + 1, len(positions))

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
    """Latent vectors (N, D), on the CPU, of images (b, 3, H, W) uint8.

    Raises TokenizerError where one is not finite.
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
    """A uniform random sample of at most `capacity` of the vectors that were added (Vitter's algorithm R)."""

    def __init__(self, capacity: int, dimensions: int, generator: torch.Generator) -> None:
        self.seen = 0
        self._kept = np.empty((0, dimensions), np.float32)
        self._capacity, self._generator = capacity, generator

    def add(self, rows: Tensor) -> None:
        """Take in vectors (N, D)."""
        fresh = rows.numpy()
        free = self._capacity - len(self._kept)
        self._kept = np.concatenate([self._kept, fresh[:free]]) if free else self._kept
        late = fresh[free:]
        draws = torch.rand(len(late), generator=self._generator, dtype=torch.float64).numpy()
        numbers = self.seen + len(fresh) - len(late) + np.arange(len(late))
        slots = (draws * (numbers + 1)).astype(np.int64)
        is_kept = slots < self._capacity
        self._kept[slots[is_kept]] = late[is_kept]  # subtle: of two for one slot NumPy keeps the later
        self.seen += len(fresh)

    def rows(self) -> Tensor:
        """The sample (n, D)."""
        return torch.from_numpy(self._kept)


def fit_quantiser(
    rows: Tensor, options: FitOptions, generator: torch.Generator, tell: Tell = _silence
) -> Quantiser:
    """The quantiser that options ask for, learned over latent vectors (N, D).

    Raises TokenizerError where there are fewer of them than codes.
    """
    if options.levels is not None:
        return fit_levels(rows, options.levels)
    if len(rows) < options.size:
        raise TokenizerError(
            f"expected at least {options.size} latent vectors for as many codes, found {len(rows)}; use more "
            "or larger images, or fewer codes"
        )
    tables, rest = [], rows
    for number in range(options.codebooks):
        name = "codebook" if options.codebooks == 1 else f"codebook {number + 1}"
        start = kmeans_start(rest, options.size, generator, partial(tell, f"{name}, first vectors"))
        steps = partial(tell, f"{name}, k-means")
        tables.append(kmeans(rest, start, options.iterations, options.batch_size, generator, steps))
        rest = rest - tables[-1][nearest(rest, tables[-1])]
    return NearestCodebook(tables[0]) if len(tables) == 1 else ResidualCodebooks(torch.stack(tables))


def fit_levels(rows: Tensor, levels: Sequence[int]) -> FiniteScalar:
    """A finite scalar quantiser centred on latent vectors (N, D), at each channel's scale of least error."""
    mean, deviation = rows.mean(0).cpu(), rows.std(0, correction=0).cpu()
    deviation = deviation.maximum(SMALLEST_SHARE * mean.abs()).clamp_min(SMALLEST)
    part = _as_latents(rows[:: -(-len(rows) // SCALED_VECTORS)])
    errors = []
    for scale in SCALES:
        tried = FiniteScalar(levels, mean, scale * deviation).to(rows.device)
        errors.append((tried.vectors(tried.codes(part)) - part).square().mean((0, 2, 3)).cpu())
    best = SCALES[torch.stack(errors).argmin(0)]
    return FiniteScalar(levels, mean, best * deviation).to(rows.device)


def kmeans_start(rows: Tensor, size: int, generator: torch.Generator, tell: Steps = _silence) -> Tensor:
    """Vectors (size, D) far from each other, chosen by k-means++ from a random part of rows (N, D)."""
    wanted = max(size, min(START_VECTORS * size, MOST_START_VECTORS))
    part = rows[torch.randperm(len(rows), generator=generator)[:wanted].to(rows.device)]
    draws = torch.rand(size, generator=generator).to(rows.device)
    chosen = [part[0]]
    distance = (part - chosen[0]).square().sum(1)
    for number in range(1, size):
        chosen.append(part[_weighted(distance, draws[number : number + 1])[0]])
        distance = distance.minimum((part - chosen[-1]).square().sum(1))
        if number % TOLD == 0:
            tell(number, size)
    return torch.stack(chosen)


def _weighted(weights: Tensor, draws: Tensor) -> Tensor:
    """Indices (n,) drawn in proportion to weights (N,), from draws (n,) in [0, 1)."""
    sums = weights.cumsum(0)
    return torch.searchsorted(sums, draws * sums[-1], right=True).clamp_max(len(weights) - 1)


def kmeans(
    rows: Tensor,
    table: Tensor,
    iterations: int,
    batch_size: int,
    generator: torch.Generator,
    tell: Steps = _silence,
) -> Tensor:
    """A codebook (K, D) of small mean squared error over rows (N, D), from a first one.

    A code is the mean of vectors that were nearest to it, over ever more of the latest batches. One that goes
    without for long starts again at a vector that is badly served.
    """
    size, table = len(table), table.clone()
    sums, counts = torch.zeros_like(table), table.new_zeros(size)
    idle, patience = torch.zeros_like(counts), -(-SPARED * size // min(batch_size, len(rows)))
    for step in range(iterations):
        batch = rows
        if batch_size < len(rows):
            batch = rows[torch.randint(len(rows), (batch_size,), generator=generator).to(rows.device)]
        codes = nearest(batch, table)
        uses = torch.bincount(codes, minlength=size)
        memory = 1 - 1 / (1 + step / SLOWING)
        sums.mul_(memory).index_add_(0, codes, batch)
        counts.mul_(memory).add_(uses)
        table = torch.where(counts[:, None] > SMALLEST, sums / counts[:, None], table)
        idle = torch.where(uses > 0, 0, idle + 1)
        dead = (idle >= patience).nonzero()[:, 0]
        if len(dead) and step < iterations - iterations // SETTLING:
            draws = torch.rand(len(dead), generator=generator).to(rows.device)
            table[dead] = batch[_weighted((batch - table[codes]).square().sum(1), draws)]
            sums[dead], counts[dead], idle[dead] = table[dead], 1.0, 0.0
        tell(step + 1, iterations)
    codes = nearest(rows, table)
    counts = torch.bincount(codes, minlength=size)[:, None]
    means = torch.zeros_like(table).index_add_(0, codes, rows) / counts
    return torch.where(counts > 0, means, table)


def code_use(codes: Tensor, size: int) -> tuple[float, int]:
    """The perplexity of codes (N,), and how many of all codes are none of them."""
    counts = torch.unique(codes, return_counts=True)[1].double()
    share = counts / counts.sum()
    return math.exp(-(share * share.log()).sum().item()), size - len(counts)


def relative_error(rows: Tensor, found: Tensor) -> float:
    """The mean squared error of vectors (N, D) that stand for rows, over the variance of rows."""
    error = (rows - found).double().square().sum().item()
    return error / max((rows - rows.mean(0)).double().square().sum().item(), SMALLEST)


def _as_latents(rows: Tensor) -> Tensor:
    """Latents (1, D, N, 1) of rows (N, D)."""
    return rows.T[None, :, :, None]
